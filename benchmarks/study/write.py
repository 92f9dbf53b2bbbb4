"""Write docs/results.md and its plots from the raw results of `study.py` and its neighbours.

python benchmarks/study/write.py
"""

import argparse
import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import nnunet_start
import numpy as np
from arms import DRAWN, JOINT, OURS, RIVALS
from study import read_rows
from teaching import AUGMENTED
from texts import (
    ABOUT,
    BETWEEN,
    CAUSES,
    CHANGES,
    CHOSEN,
    EARLIER,
    FIRST,
    GOAL,
    GONE_ON,
    HEAD,
    IN_TURN,
    KERNELS,
    KINDS,
    LARGEST,
    MEASURE,
    NAMES,
    NOT_RUN,
    NOTES,
    SHARES,
    TABLES,
    TEACHING,
    TITLES,
    TRAININGS,
)
from trainings import PARTIAL

from crossd.cli.options import ALL_PROTOCOLS
from crossd.evaluation import summary
from crossd.evaluation.statistics import Paired
from crossd.evaluation.summary import MISSING
from crossd.reports import markdown, plots
from crossd.tasks import TASKS

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
MARKS = ("<!-- written by benchmarks/study/write.py -->", "<!-- end -->")
"""Of the part of the README that is written here."""
OWN = (OURS, DRAWN)
ENOUGH = 5
"""Seeds that a row wants to be compared."""
FEW_LABELS = 100
"""Labelled volumes up to which the goal asks for a lead."""
FEW = 3
"""Seeds after which a rival may be given up."""

Sets = dict[str, dict[str, Any]]


def load(path: Path) -> dict[str, Any]:
    """Read the raw results of a set as a record of `crossd.evaluation.summary`, ours first."""
    raw = json.loads(path.read_text())
    rows = raw["rows"]
    present = list(dict.fromkeys(row["arm"] for row in rows))
    order = [*OWN, *RIVALS]
    arms = sorted(present, key=lambda a: (order.index(a) if a in order else len(order), a))
    masks = "dice" in rows[0]["metrics"]
    task = TASKS["segmentation" if masks else "classification"]
    return {"arms": arms, "metric": task.main, "task": task.name, "folds": 0, "rows": rows,
            "ways": raw["ways"], "images": raw["images"]}  # fmt: skip


def only(results: dict[str, Any], arms: tuple[str, ...]) -> dict[str, Any]:
    """Keep some of the arms."""
    rows = [row for row in results["rows"] if row["arm"] in arms]
    return {**results, "arms": [arm for arm in results["arms"] if arm in arms], "rows": rows}


@dataclasses.dataclass(frozen=True)
class Row:
    """Ours beside the best rival, of a set, a protocol and a number of labelled volumes.

    Attributes:
        set: The set.
        ours: The arm of ours.
        key: Protocol and number.
        rival: The rival of the highest mean, among those with `ENOUGH` seeds.
        among: All rivals with so many seeds.
        means: Ours, and the rival's.
        one: The comparison of the two.
        accuracies: Ours, and the rival's; none for masks.
    """

    set: str
    ours: str
    key: summary.Key
    rival: str
    among: list[str]
    means: tuple[float, float]
    one: Paired
    accuracies: list[float]

    @property
    def word(self) -> str:
        """Say how ours stands."""
        return verdict(self.one)


def verdict(one: Paired) -> str:
    """Say how the first of two stands by the measure: "ahead", "behind" or "level"."""
    ends = (one.interval, one.over_cases)
    sure = all(e is not None and (e[0] > 0 or e[1] < 0) for e in ends) and one.is_sure()
    return ("ahead" if one.difference > 0 else "behind") if sure else "level"


def compared(sets: Sets) -> list[Row]:
    """List the rows that have seeds enough."""
    rows = []
    for name, ours in itertools.product(sets, OWN):
        part = only(sets[name], (ours, *RIVALS))
        for key in sorted(summary.keys(part), key=lambda k: (ALL_PROTOCOLS.index(k[0]), k[1])):
            found = summary.summaries(part, key)
            known = [arm for arm in RIVALS if arm in found and found[arm].count >= ENOUGH]
            rival = summary.best(part, key, known)
            if rival is None or ours not in found or found[ours].count < ENOUGH:
                continue
            right = [summary.scores(part, key, a, "accuracy").values() for a in (ours, rival)]
            accuracies = [float(np.mean([*values])) for values in right if values]
            one = summary.comparisons(part, key)[rival]
            means = (found[ours].mean, found[rival].mean)
            rows.append(Row(name, ours, key, rival, known, means, one, accuracies))
    return rows


def against(sets: Sets, rows: list[Row]) -> list[str]:
    """Show ours beside the best rival of every set, protocol and number of labelled volumes."""
    if not rows:
        return ["No row has five seeds yet."]
    header = ["set", "labelled", "protocol", "ours", "best rival", "difference", "over seeds",
              "over test volumes", "Holm p", "", "accuracy"]  # fmt: skip
    body = [
        [row.set, str(row.key[1]), row.key[0], f"{row.ours} {row.means[0]:.3f}",
         f"{row.rival} {row.means[1]:.3f}", f"{row.one.difference:+.3f}",
         span(row.one.interval), span(row.one.over_cases), probability(row.one.holm), row.word,
         " to ".join(f"{value:.3f}" for value in row.accuracies)]
        for row in rows
    ]  # fmt: skip
    told = {word: [row.set for row in rows if row.word == word] for word in ("ahead", "behind")}
    text = (
        f"Of {len(rows)} rows ours is ahead of the best rival in {said(told['ahead'])}, behind it "
        f"in {said(told['behind'])}, and level in the others."
    )
    among: dict[str, list[str]] = {}
    for row in rows:
        among.setdefault(row.set, []).extend(row.among)
    those = [
        f"on {name} {markdown.join_words([f'`{arm}`' for arm in RIVALS if arm in arms])}"
        for name, arms in among.items()
    ]
    fewer = {
        f"{row.set}, {summary.title(row.key)}: {markdown.join_words([f'`{a}`' for a in row.among])}"
        for row in rows
        if set(row.among) != set(among[row.set])
    }
    rivals = f"Rivals with {ENOUGH} seeds are {'; '.join(those)}."
    if fewer:
        rivals += f" Fewer have them in some rows ({'; '.join(sorted(fewer))})."
    goal = outcome(rows)
    told_of_rivals = " ".join([rivals, *stopped(sets, rows)])
    return [text, goal, "", told_of_rivals, "", *markdown.grid(header, body), *in_vain(rows)]


def outcome(rows: list[Row]) -> str:
    """Say how far the goal was reached, but for what it says of adrenals."""
    won = [row for row in rows if row.word == "ahead" and row.key[1] <= FEW_LABELS]
    lead = max((row.one.difference for row in won), default=0.0)
    ahead = {row.set for row in won}
    behind = {row.set for row in rows if row.word == "behind"}
    missed = len(ahead) < 3 or behind or lead < 0.05
    return (
        f"{'The goal was missed' if missed else 'Sets and lead are as the goal wants'}: ours is "
        f"ahead on {len(ahead)} of {len({row.set for row in rows})} sets with up to {FEW_LABELS} "
        f"labelled volumes, by {lead:.3f} at most, and behind on {len(behind)}."
    )


def in_vain(rows: list[Row]) -> list[str]:
    """Name the numbers of labelled volumes with which the best arm was worse than without any."""
    best: dict[str, dict[summary.Key, float]] = {}
    for row in rows:
        own = best.setdefault(row.set, {})
        own[row.key] = max(*row.means, own.get(row.key, -math.inf))
    asked = sum(len(own) - 1 for own in best.values() if ("zero", 0) in own)
    worse = {name: keys for name, own in best.items() if (keys := summary.below_unlabelled(own))}
    if not worse:
        return []
    named = "; ".join(
        f"{name} ({markdown.join_words([*map(summary.title, keys)])})"
        for name, keys in worse.items()
    )
    count = sum(map(len, worse.values()))
    text = (
        f"In {count} of {asked} settings with labelled volumes the best arm scored lower than "
        f"the best one without any, as the 2D labels had told what few volumes could: {named}."
    )
    return ["", text]


STANDINGS = {
    "behind": f"Given up after {FEW} seeds or more, where a rival that went on was ahead of them "
    "in every row that they have, on the same seeds: ",
    "begun": "Unfinished: ",
    "new": "Not compared: ",
}
"""What is said of rivals that have not `ENOUGH` seeds, by how they stand."""


def stopped(sets: Sets, rows: list[Row]) -> list[str]:
    """Name the rivals that were given up after `FEW` seeds, and those that are not compared yet.

    Given up is who has been behind a rival that goes on, on the same seeds, in every row: ours is
    compared with the best rival, which it would not be.
    """
    sentences = []
    for standing, words in STANDINGS.items():
        places = []
        for name in dict.fromkeys(row.set for row in rows):
            keys = {row.key: row.among for row in rows if row.set == name}
            masks = TASKS[sets[name]["task"]].masks
            possible = [arm for arm in RIVALS if masks or arm != PARTIAL]
            arms = [arm for arm in possible if _standing(sets[name], keys, arm) == standing]
            if arms:
                names = markdown.join_words([f"`{arm}`" for arm in arms])
                places.append(f"{names} on {name}")
        if places:
            sentences.append(f"{words}{'; '.join(places)}.")
    return sentences


def _standing(results: dict[str, Any], keys: dict[summary.Key, list[str]], arm: str) -> str:
    """Tell how a rival stands in the rows that it has: one of `STANDINGS`, or "done"."""
    scores = {key: summary.scores(results, key, arm) for key in keys}
    mine = {key: own for key, own in scores.items() if own}
    if not mine:
        return "new"
    if all(arm in keys[key] for key in mine):
        return "done"
    if any(len(own) < FEW for own in mine.values()):
        return "begun"
    for key, own in mine.items():
        others = [summary.scores(results, key, rival) for rival in keys[key] if rival != arm]
        means = [np.mean([one[seed] for seed in own]) for one in others if own.keys() <= one.keys()]
        if not means or max(means) <= np.mean([*own.values()]):
            return "begun"
    return "behind"


def short(sets: Sets, rows: list[Row]) -> list[str]:
    """Write the table of the README: without labelled volumes, a column a set."""
    names = [name for name in sets if any(r.set == name and r.key == ("zero", 0) for r in rows)]
    found = {name: summary.summaries(sets[name], ("zero", 0)) for name in names}
    unlabelled = [row for row in rows if row.key == ("zero", 0)]
    won = {(r.set, r.ours) for r in unlabelled if r.word == "ahead"}
    won |= {(r.set, r.rival) for r in unlabelled if r.word == "behind"}
    body = []
    for arm, title in TITLES.items():
        cells = []
        for name in names:
            one = found[name].get(arm)
            few = one is None or one.count < ENOUGH
            text = MISSING if one is None or few else f"{one.mean:.3f}"
            cells.append(f"**{text}**" if (name, arm) in won else text)
        if any(cell != MISSING for cell in cells):
            body.append([title, *cells])
    labelled = [row for row in rows if row.key[1]]
    words = {w: [r for r in labelled if r.word == w] for w in ("ahead", "behind", "level")}
    numbers = sorted({row.key[1] for row in labelled})
    told = (
        f"Of {len(labelled)} comparisons with {markdown.join_words([str(n) for n in numbers])} "
        f"labelled volumes crossd is ahead of the best rival in "
        f"{said([r.set for r in words['ahead']])}, behind it in "
        f"{said([r.set for r in words['behind']])}, and level in the others."
    )
    return [*markdown.grid(["", *names], body), "", *([told] if labelled else [])]


def first_study(folder: Path) -> list[str]:
    """Say what the first study found without labelled volumes."""
    told = []
    for name in ("organ", "fracture", "adrenal", "hippocampus"):
        path = folder / f"{name}.json"
        if not path.is_file():
            continue
        rows = [row for row in json.loads(path.read_text())["rows"] if row["protocol"] == "zero"]
        metric = "dice" if "dice" in rows[0]["metrics"] else "auc"
        found: dict[str, list[float]] = {}
        for row in rows:
            if row["arm"] in (OURS, *RIVALS):
                found.setdefault(row["arm"], []).append(row["metrics"][metric])
        means = {arm: float(np.mean(values)) for arm, values in found.items()}
        rival = max((arm for arm in means if arm != OURS), key=means.__getitem__)
        told.append(
            f"{name} {means[OURS]:.3f} to {means[rival]:.3f} of `{rival}` "
            f"({len(found[OURS])} seeds)"
        )
    if not told:
        return []
    return [
        f"An earlier study, with one way for each arm (ours to the best rival; AUC, hippocampus: "
        f"Dice): {', '.join(told)}."
    ]


def put(path: Path, lines: list[str]) -> None:
    """Put lines between the marks of a page, which stay."""
    text = path.read_text(encoding="utf-8")
    begin, end = (text.index(mark) for mark in MARKS)
    inside = "\n".join(["", "", *lines, "", ""])
    path.write_text(text[: begin + len(MARKS[0])] + inside + text[end:], encoding="utf-8")


def span(ends: Any) -> str:
    """Write an interval."""
    return MISSING if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}"


def probability(p: float | None) -> str:
    """Write a p; what is below a thousandth is not told apart."""
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def said(names: list[str]) -> str:
    """Count comparisons, and name their sets."""
    return f"{len(names)} ({', '.join(dict.fromkeys(names))})" if names else "none"


def section(name: str, results: dict[str, Any], out: Path) -> list[str]:
    """Write what one set has shown: ours and the rivals, one table a protocol."""
    base, _, images = name.partition("-")
    title = NAMES[base] + KINDS[images]
    lines = ["", f"### {title}", ""]
    main = only(results, (*OWN, *RIVALS))
    told = [ABOUT[images]] if images in ABOUT else []
    if base in LARGEST:
        told.append(f"The largest class alone has an accuracy of {LARGEST[base]:.3f}.")
    seeds = {arm: {r["trial"] for r in main["rows"] if r["arm"] == arm} for arm in main["arms"]}
    known = set().union(*seeds.values())
    few = [f"`{arm}` has {len(own)}" for arm, own in seeds.items() if own != known]
    told.append(f"Seeds: {len(known)}{', of which ' * bool(few)}{markdown.join_words(few)}.")
    if len(known) < ENOUGH:
        told.append("So few are not compared above.")
    lines += [" ".join(told), ""]
    for protocol in sorted({key[0] for key in summary.keys(main)}, key=ALL_PROTOCOLS.index):
        part = {**main, "rows": [r for r in main["rows"] if r["protocol"] == protocol]}
        part["rows"].sort(key=lambda row: row["limit"])
        header, body = summary.table(part)
        body = [line for line in body if any(cell != MISSING for cell in line[1:])]
        lines += [f"**{protocol}**", "", *markdown.grid(header, body), ""]
    if any(row["limit"] for row in main["rows"]):
        picture = f"images/results-{name}.png"
        plots.efficiency(main, out / picture)
        lines.append(f"![{title}]({picture})")
    return lines


def gone_on(results: dict[str, Any]) -> list[str]:
    """Show a 2D training that 3D training goes on from, beside 3D training alone."""
    key = ("zero", 0)
    scores = {arm: summary.scores(results, key, arm) for arm in TRAININGS}
    both = set.intersection(*(set(own) for own in scores.values()))
    if len(both) < ENOUGH:
        return []
    seeds = {seed for _, seed in both}
    rows = [row for row in results["rows"] if row["trial"] in seeds]
    compared = summary.comparisons({**results, "rows": rows, "arms": list(TRAININGS)}, key)
    body = []
    for arm, trainings in TRAININGS.items():
        seconds = 0.0
        for way in trainings:
            of_way = [r for r in results["images"] if r["way"] == way and r["seed"] in seeds]
            seconds += float(np.median([row["seconds"] for row in of_way]))
        cells = [MISSING] * 5
        if one := compared.get(arm):
            spans = map(span, (one.interval, one.over_cases))
            cells = [f"{one.difference:+.3f}", *spans, probability(one.holm), verdict(one)]
        mean = np.mean([scores[arm][one] for one in both])
        body.append([arm, f"{seconds:.0f}", f"{mean:.3f}", *cells])
    header = ["arm", "seconds of training", markdown.METRICS[results["metric"]], "difference",
              "over seeds", "over test volumes", "Holm p", ""]  # fmt: skip
    text = f"{GONE_ON} {len(both)} seeds; seconds are medians, on one core beside another training."
    return ["", "### From 2D training to 3D training", "", text, "", *markdown.grid(header, body)]


def in_turn(sets: Sets) -> list[str]:
    """Show fine-tuning in turn with the images of 2D training, beside that on volumes alone."""
    body = []
    for name, results in sets.items():
        for key in summary.keys(only(results, (JOINT,))):
            if key[0] != "finetune":
                continue
            alone, joint = (summary.scores(results, key, arm) for arm in (OURS, JOINT))
            both = sorted(alone.keys() & joint.keys())
            if not both:
                continue
            means = [np.mean([own[one] for one in both]) for own in (alone, joint)]
            gains = [joint[one] - alone[one] for one in both]
            ways = [
                row["way"] for row in results["rows"]
                if (row["arm"], row["protocol"], row["limit"]) == (JOINT, *key)
                and (row["fold"], row["trial"]) in both
            ]  # fmt: skip
            taught = sum(way.endswith("taught") for way in ways)
            body.append(
                [name, str(key[1]), *(f"{mean:.3f}" for mean in means), f"{np.mean(gains):+.3f}",
                 ", ".join(f"{gain:+.3f}" for gain in gains), f"{taught} of {len(ways)}"]
            )  # fmt: skip
    if not body:
        return []
    header = ["set", "labelled", "fine-tuned", "joint", "difference", "each seed", "taught before"]
    return ["", "### Images and volumes in turn", "", IN_TURN, "", *markdown.grid(header, body)]


def each_way(results: dict[str, Any]) -> list[str]:
    """Show what every way of using an arm is worth, and which of them were chosen."""
    rows = results["ways"]
    if not rows:
        return []
    unlabelled = [row for row in results["rows"] if row["protocol"] == "zero"]
    chosen = {(row["arm"], row["trial"]): row["way"] for row in unlabelled}
    main = "dice" if "dice" in rows[0]["test"] else "auc"
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    body = []
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        seeds = sorted({row["seed"] for row in own})
        names = list(dict.fromkeys(row["way"] for row in own))
        value = {(row["way"], row["seed"]): row["test"][main] for row in own}
        whole = [s for s in seeds if all((way, s) in value for way in names) and (arm, s) in chosen]
        if not whole:
            continue
        for way in names:
            mean = np.mean([value[way, s] for s in whole])
            times = sum(chosen[arm, s] == way for s in whole)
            body.append([arm, way, f"{mean:.3f}", f"{times} of {len(whole)}"])
        if len(names) > 1:
            got = np.mean([value[chosen[arm, s], s] for s in whole])
            most = np.mean([max(value[way, s] for way in names) for s in whole])
            body.append([arm, "**chosen**", f"**{got:.3f}**", f"best: {most:.3f}"])
    if not body:
        return []
    metric = markdown.METRICS[main]
    return ["", *markdown.grid(["arm", "way", f"{metric}, test", "chosen"], body)]


def causes(rows: list[dict[str, Any]]) -> list[str]:
    """Show what changed when one thing was changed, on adrenals."""
    value = {(row["arm"], row["way"], row["seed"]): row["test"].get("auc") for row in rows}
    seeds = sorted({row["seed"] for row in rows})

    def line(cause: str, before: tuple[str, str], after: tuple[str, str], text: str) -> list[str]:
        both = [s for s in seeds if (*before, s) in value and (*after, s) in value]
        if not both:
            return []
        means = [np.mean([value[*one, s] for s in both]) for one in (before, after)]
        what = f"`{before[0]}`, {before[1]}"
        return [cause, what, f"{means[0]:.3f} to {means[1]:.3f}", str(len(both)), text]

    body = [line(cause, (arm, one), (arm, two), text) for cause, arm, one, two, text in CHANGES]
    drawn = "`--views drawn`, an arm of `transfer`"
    body += [line("Kernels that know one view each", (OURS, way), (DRAWN, way), drawn)
             for way in KERNELS]  # fmt: skip
    body = [cells for cells in body if cells]
    if not body:
        return []
    header = ["cause", "way", "AUC without and with the change", "seeds", "what was changed"]
    return [
        "", "## Why slices were ahead on adrenals", "", CAUSES, "",
        *markdown.grid(header, body),
    ]  # fmt: skip


def between(rows: list[dict[str, Any]]) -> list[str]:
    """Show one network asked in ways that lie between slices and the volume, see `why.py`."""
    own = [row for row in rows if row["about"] == "causes"]
    if not own:
        return []
    ways, trained = (list(dict.fromkeys(row[name] for row in own)) for name in ("way", "trained"))
    seeds = sorted({row["seed"] for row in own})
    body = [[way, *(_mean(own, way=way, trained=one) for one in trained)] for way in ways]
    text = BETWEEN.format(seeds=", ".join(map(str, seeds)))
    return ["", text, "", *markdown.grid(["asked about", *trained], body)]


def augmented(path: Path) -> list[str]:
    """Show what augmentation does to kernels that are taught, see `teaching.py`."""
    rows = read_rows(path)
    body = []
    places = sorted({(row["set"], row["seed"]) for row in rows})
    for (name, seed), asked in itertools.product(places, ("untaught", "volume", "orientations")):
        own = {row["augment"]: row for row in rows
               if (row["set"], row["seed"], row["asked"]) == (name, seed, asked)}  # fmt: skip
        if len(own) < len(AUGMENTED):
            continue  # interrupted
        cells = [f"{own[one][what]:.3f}" for what in ("agreement", "test") for one in AUGMENTED]
        what = asked if asked == "untaught" else f"{asked}, taught"
        body.append([name, str(seed), what, *cells])
    if not body:
        return []
    header = ["set", "seed", "asked about", "agreement", "augmented", "AUC", "augmented"]
    return ["", TEACHING, "", *markdown.grid(header, body)]


def shares(folder: Path) -> list[str]:
    """Show what other shares of volume and slices than a half each are worth, see `why.py`."""
    body, ways = [], list[str]()
    for path in sorted(folder.glob("why-*.json")):
        own = [row for row in json.loads(path.read_text()) if row["about"] == "shares"]
        ways = ways or list(dict.fromkeys(row["way"] for row in own))
        for trained in dict.fromkeys(row["trained"] for row in own):
            some = [row for row in own if row["trained"] == trained]
            seeds = {row["seed"] for row in some}
            best = [max((r for r in some if r["seed"] == s), key=lambda r: r["val"]) for s in seeds]
            cells = [_mean(some, way=way) for way in ways]
            chosen = f"{np.mean([row['test'] for row in best]):.3f}"
            name = path.stem.removeprefix("why-")
            body.append([name, trained, str(len(seeds)), *cells, chosen])
    if not body:
        return []
    header = ["set", "2D training", "seeds", *ways, "chosen on validation volumes"]
    return ["", "### A weight between volume and slices", "", SHARES, "",
            *markdown.grid(header, body)]  # fmt: skip


def _mean(rows: list[dict[str, Any]], **wanted: str) -> str:
    """Write the mean AUC on test volumes of the rows that are wanted."""
    own = [row["test"] for row in rows if wanted.items() <= row.items()]
    return f"{np.mean(own):.3f}" if own else MISSING


def earlier(folder: Path) -> list[str]:
    """Show the configurations of 2D training that the first study tried."""
    names = [name for name in NAMES if (folder / f"{name}.json").is_file()]
    if not names:
        return []
    found: dict[tuple[str, str], list[float]] = {}
    for name in names:
        for row in json.loads((folder / f"{name}.json").read_text())["rows"]:
            if row["protocol"] == "zero" and row["trial"] < FIRST:
                score = row["metrics"].get("dice", row["metrics"].get("accuracy"))
                found.setdefault((row["arm"], name), []).append(score)
    body = []
    for arm, note in NOTES.items():
        cells = [
            f"{np.mean(own):.3f} ± {np.std(own, ddof=1):.3f}"
            if len(own := found.get((arm, name), [])) > 1
            else MISSING
            for name in names
        ]
        body.append([arm, *cells, note])
    return [
        "", "## The choice of 2D training", "", EARLIER, "",
        *markdown.grid(["way", *names, ""], body),
    ]  # fmt: skip


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="raw results")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the page")
    parser.add_argument("--nnunet", type=Path, default=nnunet_start.RAW, help="results of nnU-Net")
    args = parser.parse_args()
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    order = [f"{name}-{kind}".removesuffix("-") for kind in KINDS for name in NAMES]
    paths = {name: args.results / f"{name}.json" for name in order}
    sets = {name: load(path) for name, path in paths.items() if path.is_file()}
    ways = {name: each_way(results) for name, results in sets.items()}
    rows = compared(sets)
    lines = ["# Results", "", HEAD, "", "## The measure", "", MEASURE, "", GOAL, "",
             "## Ours against the best rival", "", *against(sets, rows), "", NOT_RUN, "",
             "## Set by set", "", TABLES]  # fmt: skip
    for name, results in sets.items():
        lines += section(name, results, args.out)
    lines += gone_on(sets["hippocampus"]) if "hippocampus" in sets else []
    lines += in_turn(sets)
    lines += ["", "## Ways of using an arm", "", CHOSEN]
    for name, table in ways.items():
        base, _, images = name.partition("-")
        lines += ["", f"**{NAMES[base]}{KINDS[images]}**", *table] if table else []
    lines += [
        *shares(args.results),
        *causes(sets["adrenal"]["ways"] if "adrenal" in sets else []),
        *between(read_rows(args.results / "why-adrenal.json")),
        *augmented(args.results / "teaching.json"),
        *earlier(args.results / "first"),
        *nnunet_start.section(args.nnunet, args.out),
    ]
    (args.out / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    readme = args.out.parent / "README.md"
    if readme.is_file():
        put(readme, [*short(sets, rows), "", *first_study(args.results / "first")])


if __name__ == "__main__":
    main()
