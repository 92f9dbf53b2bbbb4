"""Write docs/results.md and its plots from the raw results of `study.py`.

python benchmarks/study/write.py
"""

import argparse
import json
from pathlib import Path
from typing import Any

import again
import nnunet_start
import numpy as np
import quality
from arms import ARMS, OURS, RIVALS
from texts import (
    FIRST,
    HEAD,
    KINDS,
    LARGEST,
    LINES,
    MANY,
    MISSING,
    NAMES,
    NOTES,
    OTHERS,
    PUBLISHED,
    QUOTED,
    ROOM,
    TABLES,
    WAYS,
)

from crossd.cli.options import ALL_PROTOCOLS
from crossd.evaluation import summary
from crossd.reports import markdown, plots
from crossd.tasks import TASKS

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"


def load(path: Path) -> dict[str, Any]:
    """Read the raw results of a set as a record of `crossd.evaluation.summary`, ours first."""
    raw = json.loads(path.read_text())
    rows = raw["rows"]
    present = list(dict.fromkeys(row["arm"] for row in rows))
    order = [OURS, *RIVALS]
    arms = sorted(present, key=lambda a: (order.index(a) if a in order else len(order), a))
    masks = "dice" in rows[0]["metrics"]
    metric = TASKS["segmentation" if masks else "classification"].main
    return {"arms": arms, "metric": metric, "folds": 0, "rows": rows, "images": raw["images"]}


def section(name: str, results: dict[str, Any], out: Path) -> list[str]:
    """Write what one set has shown: ours and the rivals, one table a protocol."""
    base, _, images = name.partition("-")
    title = NAMES[base] + KINDS[images]
    lines = ["", f"### {title}", ""]
    if base in PUBLISHED and not images:
        lines += [f"{PUBLISHED[base]}; {QUOTED}.", ""]
    if base in LARGEST:
        lines += [f"The largest class alone has an accuracy of {LARGEST[base]:.3f}.", ""]
    main = again.only(results, (OURS, *RIVALS))
    for protocol in sorted({key[0] for key in summary.keys(main)}, key=ALL_PROTOCOLS.index):
        part = {**main, "rows": [r for r in main["rows"] if r["protocol"] == protocol]}
        part["rows"].sort(key=lambda row: row["limit"])
        sure = min(again.level(name, key) for key in summary.keys(part))
        lines += [f"**{protocol}**", "", *markdown.grid(*shown(part, sure)), ""]
        keys = [key for key in summary.keys(part) if OURS in summary.summaries(part, key)]
        lines += [f"- {summary.verdict(part, key, again.level(name, key))}" for key in keys] + [""]
    if any(row["limit"] for row in main["rows"]):
        picture = f"images/results-{name}.png"
        plots.efficiency(main, out / picture)
        lines.append(f"![{title}]({picture})")
    return lines


def shown(results: dict[str, Any], sure: float) -> tuple[list[str], list[list[str]]]:
    """Return the table of the arms that were run at all, with the AUC where nothing is fitted."""
    header, body = summary.table(results, sure)
    if header[1:] == ["zero"] and results["metric"] == "accuracy":
        header = ["arm", "accuracy", "AUC"]
        for line in body:
            values = list(summary.scores(results, ("zero", 0), line[0], "auc").values())
            line.append(f"{np.mean(values):.3f}" if values else summary.MISSING)
    return header, [line for line in body if any(cell != summary.MISSING for cell in line[1:])]


def ceilings(sets: dict[str, dict[str, Any]]) -> list[str]:
    """Show how much room there is: without labels, and with every label that there is."""
    lines = ["", "## How much room is there?", "", ROOM, ""]
    body = []
    for name, results in sets.items():
        most = max((n for _, n in summary.keys(results)), default=0)
        if "-" in name or most < MANY:
            continue
        free, head, full = (
            summary.summaries(results, key)
            for key in (("zero", 0), ("linear", most), ("finetune", most))
        )
        rival = summary.best(results, ("linear", most), RIVALS)
        best = summary.MISSING if rival is None else f"{rival} {mean_of(head[rival])}"
        ours, slices = mean_of(free.get(OURS)), mean_of(free.get("slices"))
        fitted, scratch = mean_of(head.get(OURS)), mean_of(full.get("scratch"))
        body.append([name, str(most), ours, slices, fitted, best, scratch])
    header = ["set", "all", f"{OURS}, none", "slices, none", f"{OURS}, all, linear",
              "best rival, all, linear", "scratch, all, finetune"]  # fmt: skip
    return [*lines, *markdown.grid(header, body)] if body else []


def mean_of(cell: Any) -> str:
    """Write a mean with the number of its seeds."""
    return summary.MISSING if cell is None else f"{cell.mean:.3f} ({cell.count} seeds)"


def configurations(sets: dict[str, dict[str, Any]]) -> list[str]:
    """Compare what was tried of ours, without labelled volumes: a line a way, a column a set."""
    parts = {name: tried(results) for name, results in sets.items() if "-" not in name}
    known = {row["arm"] for r in parts.values() for row in r["rows"]}
    order = [arm for arm in ARMS if arm in known and arm not in RIVALS]
    body = []
    for arm in order:
        cells = []
        for results in parts.values():
            found = summary.summaries(results, ("zero", 0)).get(arm)
            spread = "" if found is None or found.sd is None else f" ± {found.sd:.3f}"
            cells.append(summary.MISSING if found is None else f"{found.mean:.3f}{spread}")
        body.append([f"{arm} (both)" if arm == OURS else arm, *cells])
    called = "".join(f" {arm.removeprefix(OURS)} " for arm in order)
    notes = "; ".join(f"`{word}`: {text}" for word, text in NOTES.items() if f" {word} " in called)
    text = WAYS.format(notes=f"{notes}." if notes else "")
    header = ["way (±: standard deviation)", *parts]
    return ["", "## Which configuration", "", text, "", *markdown.grid(header, body)]


def tried(results: dict[str, Any]) -> dict[str, Any]:
    """Leave what had no labels, and of each way the first seeds, where it has these."""
    rows = [row for row in results["rows"] if row["protocol"] == "zero"]
    first = {row["arm"] for row in rows if row["trial"] < FIRST}
    rows = [row for row in rows if row["trial"] < FIRST or row["arm"] not in first]
    return {**results, "rows": rows}


def goal(sets: dict[str, dict[str, Any]]) -> list[str]:
    """Show ours beside the best rival, by the main metric and by the AUC, which need not agree."""
    lines = ["", "## Ours against the best rival", "", *against(sets)]
    ranked = {
        name: {**results, "metric": "auc"}
        for name, results in sets.items()
        if results["metric"] == "accuracy"
    }
    return [*lines, "", "By the AUC, the mean over classes:", "", *against(ranked), "", OTHERS]


def against(sets: dict[str, dict[str, Any]]) -> list[str]:
    """Compare ours with the best rival of every set, protocol and number of labelled volumes."""
    header = ["set", "labelled volumes", "protocol", "ours", "best rival", "difference", "Holm p"]
    body, won, lost = [], list[str](), list[str]()
    for name, results in sets.items():
        among = [OURS, *(arm for arm in RIVALS if arm in results["arms"])]
        part = {**results, "arms": among}
        for key in sorted(summary.keys(results), key=lambda k: (k[0], k[1])):
            rival = summary.best(part, key, among[1:])
            found = summary.summaries(part, key)
            if rival is None or OURS not in found:
                continue
            one = summary.comparisons(part, key)[rival]
            gap, p = one.difference, one.holm
            if p is not None and p < again.level(name, key):
                (won if gap > 0 else lost).append(name)
            body.append(
                [name, f"{key[1]}", key[0], f"{found[OURS].mean:.3f}",
                 f"{rival} {found[rival].mean:.3f}", f"{gap:+.3f}", probability(p)]
            )  # fmt: skip
    text = f"`{OURS}` is significantly better than the best of the rivals in {said(won)}, and "
    text += f"significantly worse in {said(lost)}, of {len(body)} comparisons."
    return [text, "", *markdown.grid(header, body)]


def probability(p: float | None) -> str:
    """Write a p; what is below a thousandth is not told apart."""
    return summary.MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def said(names: list[str]) -> str:
    """Count comparisons, and name their sets."""
    return f"{len(names)} ({', '.join(dict.fromkeys(names))})" if names else "none"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=HERE / "results", help="raw results")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the page")
    parser.add_argument("--nnunet", type=Path, default=nnunet_start.RAW, help="results of nnU-Net")
    args = parser.parse_args()
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    paths = sorted(args.results.glob("*.json"))
    sets = {path.stem: load(path) for path in paths}
    order = [f"{name}-{kind}".removesuffix("-") for kind in KINDS for name in NAMES]
    sets = {name: sets[name] for name in order if name in sets}
    lines = ["# Results", "", *HEAD.splitlines(), *goal(sets), "", "## Three lines of attack", "",
             LINES, "", *again.section(sets), "",
             "## Set by set", "", TABLES]  # fmt: skip
    for name, results in sets.items():
        lines += section(name, results, args.out)
    lines += [
        *ceilings(sets),
        *configurations(sets),
        *quality.section(sets, args.out),
        *nnunet_start.section(args.nnunet, args.out),
        "",
        "## What is missing",
        "",
        MISSING,
    ]
    (args.out / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
