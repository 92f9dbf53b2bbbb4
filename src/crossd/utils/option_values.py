"""Reading the values of options that are lists or sizes."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crossd.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
TRAINED = ("bf16-true", "64-true")
"""Precisions of weights that training alone knows."""

ANSWERS = ("volume", "orientations", "slices", "both")
"""How a network answers on volumes, see `crossd.inference.slice_ensemble.answering`."""

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
LEAST = {
    "seed": 0,
    "workers": 0,
    "epochs": 1,
    "batch_size": 1,
    "limit": 1,
    "slice_step": 1,
    "ignore": 1,
    "steps": 1,
    "channels": 1,
    "num_nodes": 1,
    "accumulate": 1,
    "volume_epochs": 1,
    "volume_steps": 1,
    "volume_batch_size": 1,
    "trials": 1,
    "jobs": 1,
    "folds": 2,
}
"""The smallest value of every whole number among the options."""

POSITIVE = ("lr", "volume_lr", "seconds", "std", "clip", "checkpoint_minutes", "cache_gb")
CHOICES = {
    "views": ("own", "drawn"),
    "answer": ANSWERS,
    "strategy": ("auto", "ddp", "fsdp"),
    "on_nan": ("stop", "skip"),
    "on_bad_sample": ("stop", "skip"),
}


def check(config: object) -> None:
    """Check the numbers and the precision among the options of a command.

    Args:
        config: Its dataclass of options.

    Raises:
        InputError: "--OPTION (=...) must be ..." for the first that is out of range.
    """
    for name, value in vars(config).items():
        option = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if name in LEAST and isinstance(value, int) and value < LEAST[name]:
            raise InputError(f"{option} (={value}) must be at least {LEAST[name]}")
        if name == "seed" and value >= 2**32:
            raise InputError(f"{option} (={value}) must be below 2 to the power of 32")
        if name in POSITIVE and not (math.isfinite(value) and value > 0):
            raise InputError(f"{option} (={value}) must be a positive number")
        if name == "devices" and (value == 0 or value < -1):
            raise InputError(f"{option} (={value}) must be at least 1, or -1 for all")
        if name in CHOICES:
            choice(value, CHOICES[name], option)
        if name == "precision":
            choice(value, (*PRECISIONS, *(TRAINED if hasattr(config, "devices") else ())), option)


def unused(config: "DataclassInstance", options: Sequence[str], why: str) -> None:
    """Refuse options that were given but would have no effect.

    Args:
        config: The dataclass of options of a command.
        options: Names of those that have none now.
        why: What they are for, to follow the name.

    Raises:
        InputError: "--OPTION " and `why`, for the first that is not as it is by default.
    """
    for field in dataclasses.fields(config):
        if field.name in options and getattr(config, field.name) != field.default:
            raise InputError(f"--{field.name.replace('_', '-')} {why}")


def choice(text: str, known: Sequence[str], option: str) -> str:
    """Check one name.

    Raises:
        InputError: "OPTION (=...) must be one of ..." for any other.

    Example:
        >>> choice("probe", ("probe", "finetune"), "--protocol")
        'probe'
    """
    if text not in known:
        raise InputError(f"{option} (={text!r}) must be one of {', '.join(known)}")
    return text


def names(text: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    """Split a list separated by commas and check every name.

    Raises:
        InputError: "OPTION: unknown ..." with what is known.

    Example:
        >>> names("probe, zero", ("zero", "probe"), "--protocols")
        ('probe', 'zero')
    """
    given = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        shown = ", ".join(map(repr, unknown)) or "empty list"
        raise InputError(f"{option}: unknown {shown}; known are {', '.join(known)}")
    return tuple(dict.fromkeys(given))


def sizes(text: str | None) -> tuple[int, ...] | None:
    """Read a size: one number, or one an axis.

    Raises:
        InputError: "--size ..." for anything else.

    Example:
        >>> sizes("32,48,48")
        (32, 48, 48)
    """
    if text is None:
        return None
    try:
        values = tuple(int(part) for part in str(text).split(","))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise InputError(f"--size (={text!r}) must be a number, or one an axis such as 32,48,48")
    return values


def counts(text: str | None, option: str) -> tuple[int, ...]:
    """Read whole numbers from 1 upwards separated by commas, ascending; none of None.

    Raises:
        InputError: "OPTION ..." for anything else.

    Example:
        >>> counts("50,10", "--limit")
        (10, 50)
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"{option} (={text!r}) must be whole numbers separated by commas")
    return tuple(sorted({int(part) for part in parts}))


def class_names(text: str | None) -> tuple[str, ...]:
    """Read names of classes separated by commas, or their number; none of None.

    Raises:
        InputError: "--classes ..." for an empty list, a name given twice, or no class.

    Example:
        >>> class_names("liver,spleen"), class_names("3")
        (('liver', 'spleen'), ('0', '1', '2'))
    """
    if text is None:
        return ()
    given = tuple(name.strip() for name in text.split(","))
    if len(given) == 1 and given[0].isdecimal():
        given = tuple(map(str, range(int(given[0]))))
    if not given or "" in given or len(set(given)) < len(given):
        raise InputError(f"--classes (={text!r}) must be a number, or names separated by commas")
    return given
