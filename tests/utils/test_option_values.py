"""Options that are lists, sizes, choices or numbers with a range."""

from dataclasses import dataclass

import pytest

from crossd.cli.options import (
    FinetuneConfig,
    PretrainConfig,
    RecalibrateConfig,
    TransferConfig,
)
from crossd.errors import InputError
from crossd.utils.option_values import check, choice, names, sizes

KNOWN = ("zero", "probe", "finetune")


def test_names_keep_their_order_and_come_once() -> None:
    assert names(" finetune,zero , finetune,", KNOWN, "--protocols") == ("finetune", "zero")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zero,prob", "--protocols: unknown 'prob'; known are zero, probe, finetune"),
        ("a,zero,b", "--protocols: unknown 'a', 'b'"),
        ("", "--protocols: unknown empty list"),
        (" , ", "--protocols: unknown empty list"),
    ],
)
def test_unknown_names(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        names(text, KNOWN, "--protocols")
    assert str(caught.value).startswith(words)


def test_choice_is_one_name() -> None:
    assert choice("zero", KNOWN, "--protocol") == "zero"
    for text in ("zero,probe", " zero", ""):
        with pytest.raises(InputError, match=r"--protocol .* must be one of zero, probe, finetune"):
            choice(text, KNOWN, "--protocol")


def test_sizes() -> None:
    assert sizes(None) is None
    assert sizes("32") == (32,)
    assert sizes("32, 48,64") == (32, 48, 64)


@pytest.mark.parametrize("text", ["", "a", "32,", "1.5", "0", "32,-1", "32x32"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(InputError, match=r"^--size \(=.*\) must be a number, or one an axis"):
        sizes(text)


def test_the_defaults_pass() -> None:
    check(PretrainConfig())
    check(FinetuneConfig(weights="w"))
    check(RecalibrateConfig(weights="w", out="o"))
    check(TransferConfig())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epochs", 0, "--epochs (=0) must be at least 1"),
        ("epochs", -3, "--epochs (=-3) must be at least 1"),
        ("volume_epochs", 0, "--volume-epochs (=0) must be at least 1"),
        ("volume_steps", 0, "--volume-steps (=0) must be at least 1"),
        ("volume_batch_size", 0, "--volume-batch-size (=0) must be at least 1"),
        ("batch_size", 0, "--batch-size (=0) must be at least 1"),
        ("slice_step", 0, "--slice-step (=0) must be at least 1"),
        ("limit", 0, "--limit (=0) must be at least 1"),
        ("seed", -1, "--seed (=-1) must be at least 0"),
        ("seed", 2**32, "--seed (=4294967296) must be below 2 to the power of 32"),
        ("workers", -1, "--workers (=-1) must be at least 0"),
        ("lr", 0.0, "--lr (=0.0) must be a positive number"),
        ("lr", float("nan"), "--lr (=nan) must be a positive number"),
        ("volume_lr", float("inf"), "--volume-lr (=inf) must be a positive number"),
        ("precision", "17", "--precision (='17') must be one of 32-true, bf16-mixed, 16-mixed"),
    ],
)
def test_numbers_out_of_range(name: str, value: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check(TransferConfig(**{name: value}))  # type: ignore[arg-type]
    assert str(caught.value) == words


def test_other_options_are_left_alone() -> None:
    @dataclass
    class Config:
        data: str = "-1"
        size: int | None = None

    check(Config())
