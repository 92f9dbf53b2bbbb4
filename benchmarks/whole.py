"""Whole numbers on the command lines of benchmarks: what is none is refused in a line."""

import argparse


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    return _at_least(1, text)


def some_positive(text: str) -> list[int]:
    """Read whole numbers of at least 1, separated by commas."""
    return [_at_least(1, part) for part in text.split(",")]


def some_counts(text: str) -> list[int]:
    """Read whole numbers of at least 0, separated by commas."""
    return [_at_least(0, part) for part in text.split(",")]


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return number
