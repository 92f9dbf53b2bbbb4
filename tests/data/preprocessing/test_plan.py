from pathlib import Path

import numpy as np
import pytest
from files import message
from hypothesis import given
from hypothesis import strategies as st

from crossd.data.preprocessing import plan, plan_file
from crossd.data.preprocessing.plan import Intensity, Plan
from crossd.data.quality.facts import SampleFacts
from crossd.errors import InputError


def facts(
    modality: str = "",
    ranges: tuple[float, float, float] = (0.0, 1.0, 9.0),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    size: tuple[int, int, int] = (30, 40, 50),
) -> SampleFacts:
    found = np.array([[*ranges, ranges[-1]]])
    return SampleFacts("x", spacing=spacing, size=size, modality=modality, ranges=found)


def test_ct_gets_a_window_and_others_are_scaled_by_themselves() -> None:
    hounsfield = (-1024.0, -160.4, 239.6)
    for modality in ("CT", ""):
        made = plan.decide([facts(modality, hounsfield)] * 3, masks=True)
        assert made.intensity == (Intensity("window", -160, 240),)
    assert plan.decide([facts("MR")], masks=True).intensity[0].kind == "z-score"
    assert plan.decide([facts()], masks=True).intensity[0].kind == "z-score"
    mixed = [facts("CT", hounsfield), facts("MR")]
    assert plan.decide(mixed, masks=True).intensity[0].kind == "z-score"


@given(st.tuples(*[st.floats(0.1, 10)] * 3))
def test_spacing_is_isotropic_unless_slices_are_thick(sides: tuple[float, float, float]) -> None:
    made = plan.target_spacing([sides])
    if max(sides) <= 3 * min(sides):
        assert len(set(made)) == 1
        assert np.prod(made) == pytest.approx(np.prod(sides), rel=0.01)
    elif max(sides) > 3.01 * min(sides):
        assert made == pytest.approx(sides, rel=0.01)


def test_patches_cover_the_typical_size_up_to_a_limit() -> None:
    assert plan.decide([facts()], masks=True).patch == (32, 40, 56)
    patch = plan.decide([facts(size=(400, 512, 512))], masks=True).patch
    assert np.prod(patch) <= plan.LARGEST_PATCH and min(patch) > 100
    assert plan.decide([facts()], masks=True, size=(8, 16, 24)).patch == (8, 16, 24)


def test_volumes_with_labels_are_seen_whole() -> None:
    made = plan.decide([facts(size=(400, 512, 512))], masks=False)
    covered = np.array(made.patch) * made.spacing
    assert (covered > np.array((400, 512, 512)) * 0.97).all()
    assert np.prod(made.patch) <= 1.3 * plan.LARGEST_WHOLE
    small = plan.decide([facts()], masks=False)
    assert small.spacing == (1.0, 1.0, 1.0)
    asked = plan.decide([facts(size=(64, 32, 32))], masks=False, size=(32, 32, 32))
    assert asked.patch == (32, 32, 32) and asked.spacing == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("kind", plan.KINDS)
def test_scaling(kind: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 20, (1, 20, 20, 20)).astype(np.float32)
    ends = (60.0, 140.0) if kind == "window" else (0.5, 99.5)
    how = (Intensity(kind, *ends),)
    plan.scale(image, plan.limits(image, how, "here"), how)
    if kind == "none":
        assert image.mean() == pytest.approx(100, abs=1)
    elif kind == "z-score":
        assert image.mean() == pytest.approx(0, abs=1e-3)
        assert image.std() == pytest.approx(1, abs=1e-3)
    else:
        assert image.min() == 0 and image.max() == pytest.approx(1)


def test_volumes_that_show_nothing_are_refused() -> None:
    flat = np.full((1, 4, 4, 4), 7, np.float32)
    with pytest.raises(InputError, match=r"here: every value is 7"):
        plan.limits(flat, (Intensity("window", 0, 1),), "here")
    with pytest.raises(InputError, match="has 1 channel, expected 2"):
        plan.limits(flat, (Intensity("window", 0, 1),) * 2, "here")


def test_a_small_bright_thing_is_still_seen() -> None:
    image = np.zeros((1, 20, 20, 20), np.float32)
    image[0, 3, 3, 3] = 5
    how = (Intensity("percentiles", 0.5, 99.5),)
    plan.scale(image, plan.limits(image.copy(), how, "here"), how)
    assert image.max() == 1 and image.min() == 0


PLAN = Plan((2.0, 1.0, 1.0), (16, 32, 32), (Intensity("window", -100, 200),))


def test_written_plans_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    plan_file.write(PLAN, path, (0, 2), ("background", "tumour"), ["a note"], 255)
    assert plan_file.read(path) == (PLAN, {0: "background", 2: "tumour"}, 255)
    assert path.read_text().startswith("# a note\n")
    plan_file.write(PLAN, path)
    assert plan_file.read(path) == (PLAN, {}, None)
    record = plan_file.to_record(PLAN)
    assert record is not None and plan_file.from_record(record, "x") == PLAN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[2.0, 1.0, 1.0]", "[2.0, 0.0, 1.0]"), "spacing is [2.0, 0.0, 1.0]"),
        (("[2.0, 1.0, 1.0]", "[2.0, 1.0]"), "expected three numbers"),
        (("[16, 32, 32]", "[16, 32.5, 32]"), "patch is"),
        (("window", "windows"), "must have kind (window"),
        (("low: -100", "low: 300"), "low (=300"),
        (("spacing", "spaces"), "does not know spaces"),
        (("spacing", "# spacing"), "is no plan"),
        (("patch:", "extra: 1\npatch:"), "does not know extra"),
        (("{0: background, 2: tumour}", "{1: tumour}"), "must hold 0"),
        (("{0: background, 2: tumour}", "[a, b]"), "must be lines such as"),
        (("ignore: 255", "ignore: '255'"), "ignore is '255'; expected a value of masks from 1"),
        (("ignore: 255", "ignore: 0"), "ignore is 0; expected a value of masks from 1"),
        (("ignore: 255", "ignore: true"), "ignore is True; expected a value of masks from 1"),
        (("ignore: 255", "ignore: 2"), "2 is to be ignored, but is also a class"),
        (("spacing: [", "spacing: ["[:-1] + "{"), "cannot be read as a plan"),
    ],
)
def test_bad_plans(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = tmp_path / "plan.yaml"
    plan_file.write(PLAN, path, (0, 2), ("background", "tumour"), ignore=255)
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(InputError) as caught:
        plan_file.read(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_plans_of_nnunet_add_is_kept(tmp_path: Path) -> None:
    made = Plan(
        (2.0, 1.0, 1.0),
        (16, 32, 32),
        (
            Intensity("window", -100, 200, mean=30.0, std=20.0),
            Intensity("z-score", 0, 100, region="nonzero"),
            Intensity("none", 0, 1),
        ),
        axes=(2, 0, 1),
        fill=0.0,
        final=True,
    )
    plan_file.write(made, tmp_path / "plan.yaml")
    assert plan_file.read(tmp_path / "plan.yaml")[0] == made


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"axes": [0, 1, 1]}, "axes is"),
        ({"fill": "least"}, "fill is least"),
        ({"final": 3}, "final is 3"),
        ({"intensity": [{"kind": "window", "low": 0, "high": 1, "mean": 1}]}, "both be numbers"),
        ({"intensity": [{"kind": "window", "low": 0, "high": 1, "region": "box"}]}, "region"),
        (
            {"intensity": [{"kind": "z-score", "low": 0, "high": 1, "mean": 0, "std": 1}]},
            "for a window",
        ),
    ],
)
def test_odd_additions_are_refused(change: dict[str, object], text: str) -> None:
    record = {**(plan_file.to_record(PLAN) or {}), **change}
    assert text in message(lambda: plan_file.from_record(record, "here"))


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (20,)])
def test_mean_and_deviation_are_those_of_numpy(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of values in any shape: those that are not zero come as a row."""
    monkeypatch.setattr(plan, "PART", 7)
    values = np.random.default_rng(0).normal(1e6, 0.5, shape).astype(np.float32)
    parts: list[int] = []
    real = np.subtract

    def subtract(part: np.ndarray, *rest: object, **named: object) -> object:
        parts.append(part.size)
        return real(part, *rest, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(np, "subtract", subtract)
    found = plan._mean_and_deviation(values)
    assert found == pytest.approx((values.mean(dtype=float), values.std(dtype=float)), rel=1e-12)
    assert sum(parts) == values.size and len(parts) == -(-values.size // 7)  # not one by one
