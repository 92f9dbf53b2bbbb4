"""One training of a command, from the network to its weights, its report and its pictures."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from crossd.cli.options import FinetuneConfig, JointConfig, PretrainConfig
from crossd.data.preprocessing import plan_file
from crossd.data.source import Source
from crossd.tasks import task_of
from crossd.training import loop, validate
from crossd.utils.option_values import choice
from crossd.utils.processes import is_first
from crossd.utils.progress import Progress
from crossd.utils.run_folder import PLAN, claim_folder
from crossd.weights.weights_file import WeightsConfig, save

Options = PretrainConfig | FinetuneConfig | JointConfig
"""Of the commands that train one network."""


def train_and_write(
    net: nn.Module,
    source: Source,
    options: loop.TrainConfig,
    weights: WeightsConfig,
    config: Options,
    progress: Progress,
    name: str,
    keep: Callable[[nn.Module], nn.Module] = lambda net: net,
    beside: Sequence[tuple[Source, loop.TrainConfig]] = (),
    rows: Sequence[slice] | None = None,
    first: Callable[[], None] | None = None,
) -> str:
    """Train, keep the best weights, score them on the test samples, and write it all down.

    Args:
        net: The network.
        source: What it learns and is scored on.
        options: How.
        weights: Written with it.
        config: The options of the command, with a folder to claim.
        progress: Where to show how far it is.
        name: What to call it there.
        keep: From the network that is trained to the one that is scored and written.
        beside: See `crossd.training.loop.fit`.
        rows: Likewise.
        first: Done before the training, when the folder is claimed.

    Returns:
        What to print.
    """
    from crossd.reports import curves, html, markdown, shown_cases, truth_plots

    folder = Path(config.out)
    if is_first():
        claim_folder(config)
        if source.plan is not None:
            write_plan(source, folder / PLAN)
    start = time.perf_counter()
    if first is not None:
        first()
    path = folder / "weights.safetensors"
    fit = loop.fit(
        net,
        source,
        options,
        folder=folder,
        resume=config.resume,
        on_best=lambda net: save(keep(net), path, weights),
        progress=progress,
        name=name,
        beside=beside,
        rows=rows,
    )
    net = fit.net
    if fit.state is not None:
        net.load_state_dict(fit.state)
    elif any("val" in epoch for epoch in fit.history):
        main = task_of(source.task).main
        progress.say(
            f"the validation samples tell no {main.replace('_', ' ')} (too few, or all alike): the "
            "weights of the last epoch are kept"
        )
    kept = keep(net).float()
    scores, outputs = validate.score(kept, source, source.test, options)
    told = f"{len(source.test):,} test samples: {validate.describe(scores, source.task)}"
    cases = shown_cases.of_scored(kept, source, source.test, outputs, options)
    if not is_first():
        return told
    save(kept, path, weights)
    results = markdown.record(
        config,
        start,
        data=source.name,
        task=source.task,
        classes=list(source.classes),
        units=list(source.units),
        model=weights.model,
        test_samples=len(source.test),
        metrics=scores,
        history=fit.history,
        skipped_steps=fit.skipped,
        drawn=truth_plots.draw(source, outputs, folder),
    )
    curves.training(results, folder / "curves.png")
    spent = markdown.cost(results["seconds"], "training samples", fit.samples, fit.seconds)
    text = markdown.training(results, spent)
    shown = html.render(text, markdown.sentence(results), folder, cases)
    markdown.write(results, folder, text, {"report.html": shown})
    return f"{told}\nwritten: {path} and {folder}/report.html"


def augmentation(config: Options, source: Source) -> str:
    """Choose the augmentation where the options leave it open: full for masks, else light."""
    if config.augment is None:
        return "full" if task_of(source.task).masks else "light"
    return choice(config.augment, ("light", "full", "none"), "--augment")


def write_plan(source: Source, path: Path) -> None:
    """Write the plan of a source of volumes, with a line on how many there are."""
    assert source.plan is not None
    names = source.classes if source.values else ()
    counts = "{:,} training, {:,} validation and {:,} test {}".format(
        *(len(part) for part in (source.train, source.val, source.test)),
        "slices" if source.rank == 2 else "volumes",
    )
    notes = [f"{source.name}: {counts}"]
    plan_file.write(source.plan, path, source.values, names, notes, source.ignore)
