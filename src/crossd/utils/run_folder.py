"""Folders and files of results: claimed before work starts, never overwritten unasked."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossd.errors import InputError
from crossd.utils.atomic_files import atomic

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULT = "metrics.json"
CONFIGURATION = "config.yaml"
CHECKPOINT = "last.ckpt"
EARLIER_CHECKPOINT = "earlier.ckpt"
PLAN = "plan.yaml"
LOG = "log.csv"
STATUS = "status.json"
BAD_BATCHES = "bad-batches.jsonl"
"""Where it is written which samples gave a loss that is no number."""

LEFTOVERS = (
    ".lock",
    "answer-*.npz",
    "features-*",
    "pretrained-*.json",
    "run-*.json",
    "taught-*.safetensors",
    CHECKPOINT,
    EARLIER_CHECKPOINT,
)
"""What an interrupted run leaves, to be resumed."""

OUTPUTS = (
    RESULT,
    "report.md",
    "report.html",
    "weights.safetensors",
    "pretrained-*.safetensors",
    "use-*.safetensors",
    PLAN,
    "cases.csv",
    "worst-*.png",
    "runs.csv",
    "table.tex",
    LOG,
    STATUS,
    BAD_BATCHES,
    "tensorboard/events.*",
    "efficiency.png",
    "differences.png",
    "ranks.png",
    "scores.png",
    "curves.png",
    "confusion.png",
    "roc.png",
    "scatter.png",
    "answers.png",
    "bench.png",
    "data.png",
    "kernels.png",
    "kernels.gif",
    "energy.png",
    "similarity.png",
    "poses.png",
    "poses-classes.png",
    "grad-cam.png",
    "answer.png",
)
"""What a run that ended leaves, and what the commands that it prints make of that."""

INSIDE = "use-taught"
"""The folder of a run, within that of another, which a command that the other prints makes."""

_NOT_COMPARED = ("out", "overwrite", "resume", "workers", "jobs", "cache", "cache_gb")


def claim_folder(config: "DataclassInstance", resumable: bool | None = None) -> Path:
    """Make the output folder of a run and write its configuration there.

    Args:
        config: A dataclass with `out`, `overwrite` and, where a run can go on, `resume`: it goes on
            where one began, and starts where there is nothing.
        resumable: Whether it can; None asks the dataclass.

    Returns:
        The folder.

    Raises:
        InputError: When a result or anything else is there already, or a run with other options is
            to be resumed.
    """
    import yaml

    options = dataclasses.asdict(config)
    if not options["out"]:
        raise InputError("--out is empty: name a folder")
    folder = Path(options["out"])
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file: name a folder")
    if (folder / RESULT).exists() and not options["overwrite"]:
        raise InputError(f"{folder} already holds a result: name another --out, or --overwrite it")
    path = folder / CONFIGURATION
    resumable = "resume" in options if resumable is None else resumable
    resume = resumable and options["resume"]
    if resume and path.is_file():
        _require_same_options(folder, options)
    elif resume or not options["overwrite"]:
        others = [p for p in folder.glob("*") if p != path]
        if path.exists() and (others or resumable):
            ways = "--resume or --overwrite" if resumable else "--overwrite"
            raise InputError(f"{folder} holds a run that did not end: {ways} it")
        if others:
            raise InputError(f"--out {folder} is not empty: name another, or --overwrite in it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (resume and path.is_file()):
            remove(folder, (*OUTPUTS, *LEFTOVERS))
            remove(folder / INSIDE, (*OUTPUTS, *LEFTOVERS, CONFIGURATION))
        with atomic(path) as temporary:
            temporary.write_text(yaml.safe_dump(options, sort_keys=False))
    except OSError as error:
        raise InputError(f"cannot write to --out {folder}: {error.strerror}") from error
    return folder


def free_file(
    path: str | Path,
    overwrite: bool,
    endings: Sequence[str] = (".safetensors",),
    option: str = "--",
) -> Path:
    """Make the folder of a file that is to be written.

    Args:
        path: What was given as `out`.
        overwrite: Whether a file that is there may be replaced.
        endings: Of its name.
        option: What stands before the names of options in messages; nothing for arguments.

    Raises:
        InputError: "--out ..." or "... exists already".
    """
    out = Path(path)
    if out.suffix not in endings:
        raise InputError(f"{option}out {out} must end in {' or '.join(endings)}")
    if out.is_dir():
        raise InputError(f"{option}out {out} is a folder: name a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {option}out {out}: {error.strerror}") from error
    if out.exists() and not overwrite:
        ways = f"name another {option}out, or {option}overwrite it"
        raise InputError(f"{out} exists already: {ways}")
    return out


def is_finished(config: "DataclassInstance") -> bool:
    """Tell whether a run that is to go on has ended already.

    Args:
        config: As of `claim_folder`.

    Raises:
        InputError: "... was started with other options ..." when its options were others.
    """
    options = dataclasses.asdict(config)
    if not options.get("resume") or not options["out"]:
        return False
    folder = Path(options["out"])
    if not all((folder / name).is_file() for name in (RESULT, CONFIGURATION)):
        return False  # what has no configuration is no run of ours
    _require_same_options(folder, options)
    return True


def _require_same_options(folder: Path, options: Mapping[str, object]) -> None:
    """Refuse to go on with a run that was started with other options."""
    import yaml

    path = folder / CONFIGURATION
    try:
        before = yaml.safe_load(path.read_text())
    except (ValueError, yaml.YAMLError):
        before = None
    if not isinstance(before, dict):
        raise InputError(f"{path} is damaged: start anew with --overwrite")
    changed = [
        name
        for name, value in options.items()
        if name not in _NOT_COMPARED and before.get(name) != value
    ]
    if changed:
        told = ", ".join(
            f"{name} {_shown(before.get(name))}, now {_shown(options[name])}" for name in changed
        )
        raise InputError(
            f"{folder} was started with other options ({told}): resume with the same ones, or "
            "start anew with --overwrite"
        )


def remove(folder: Path, patterns: Sequence[str]) -> None:
    """Remove the files of a folder that match any of the patterns."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def _shown(value: object) -> object:
    return "not given" if value is None else value
