"""Weights files: written whole, read back the same; and those of the paper's implementation."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import some
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import crossd
from crossd import InputError
from crossd.weights import weights_file
from crossd.weights.weights_file import (
    WeightsConfig,
    convert_file,
    load,
    read_config,
    save,
)

SMALL = WeightsConfig("resnet-small", "classification", 1, ("cat", "dog", "emu"))
CROSS = dataclasses.replace(SMALL, mean=0.3, std=1.7, size=(28, 30), spacing=(2.0, 1.0, 1.0))
FORMS = {
    "projection": CROSS,
    "slice": dataclasses.replace(CROSS, kernel_mode="slice"),
    "fourier": dataclasses.replace(CROSS, kernel_mode="fourier", mode_options={"offset": 0.5}),
    "2d": dataclasses.replace(CROSS, form="2d"),
    "3d": dataclasses.replace(CROSS, form="3d"),
    "acs": dataclasses.replace(CROSS, form="acs"),
    "unet": WeightsConfig("segresnet-small", "segmentation", 2, ("none", "a"), form="3d"),
}
IMAGES, VOLUMES = (2, 1, 16, 18), (2, 1, 12, 12, 13)


def noisy(net: nn.Module) -> Any:
    """Change every number of a network, so that none is what building it gives."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(0.9).add_(torch.rand_like(tensor) * 0.1)
    return net.eval()


def refused(message: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        function(*arguments, **named)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a small Cross-D network, which nobody changes."""
    path = tmp_path_factory.mktemp("saved") / "net.safetensors"
    save(noisy(CROSS.build()), path, CROSS)
    return path


@pytest.fixture(scope="module")
def answer(saved: Path) -> Tensor:
    """What the network of that file says."""
    found: Tensor = load(saved)(torch.ones(IMAGES)).detach()
    return found


@pytest.fixture
def file(saved: Path, tmp_path: Path) -> Path:
    """A copy of that file."""
    return Path(shutil.copy(saved, tmp_path))


def given(config: Any) -> WeightsConfig:
    """Leave out of a configuration what conversion decided."""
    return dataclasses.replace(config, decided=None)


# Saving and loading


@pytest.mark.parametrize("form", some(FORMS, ["projection", "fourier", "3d"]))
def test_a_file_gives_back_the_network_and_its_configuration(tmp_path: Path, form: str) -> None:
    config = FORMS[form]
    net, path = noisy(config.build()), tmp_path / "net.safetensors"
    save(net, path, config)
    assert list(tmp_path.iterdir()) == [path]
    again: Any = load(path)
    assert given(again.config) == dataclasses.replace(config, version=crossd.__version__)
    assert (again.config.decided is None) == (form == "2d")
    assert not again.training
    torch.testing.assert_close(again.state_dict(), net.state_dict(), rtol=0, atol=0)
    shapes: dict[str, list[tuple[int, ...]]] = {
        "2d": [IMAGES],
        "3d": [VOLUMES],
        "unet": [(1, 2, 8, 8, 8)],
    }
    for shape in shapes.get(form, [IMAGES, VOLUMES]):
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)
    save(again, path)  # the configuration that load left
    assert read_config(path) == again.config


def test_a_network_without_a_configuration_is_refused(tmp_path: Path) -> None:
    refused("no configuration", save, nn.Linear(1, 1), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_custom_model_needs_its_2d_network(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    config = dataclasses.replace(SMALL, model="custom", kernel_mode="fourier")
    source, path = make(), tmp_path / "net.safetensors"
    net = noisy(config.build(source))
    save(net, path, config)
    refused("custom model: give its 2D network as model=", load, path)
    state = copy.deepcopy(source.state_dict())
    images = torch.randn(IMAGES)
    torch.testing.assert_close(load(path, source)(images), net(images), rtol=0, atol=0)
    torch.testing.assert_close(source.state_dict(), state, rtol=0, atol=0)
    refused("does not fit .* 'custom'.*'0.weight'", load, path, nn.Sequential(nn.Conv2d(1, 4, 3)))


def test_shared_tensors_are_written_once(tmp_path: Path) -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1)
    source = nn.Sequential(conv, nn.ReLU(), conv)
    config = dataclasses.replace(SMALL, model="custom")
    net, path = noisy(config.build(source)), tmp_path / "net.safetensors"
    save(net, path, config)
    with safe_open(path, framework="pt") as opened:
        assert sorted(opened.keys()) == ["0.bias", "0.weight"]
    again: Any = load(path, source)
    assert again[0] is again[2]
    torch.testing.assert_close(again(torch.ones(IMAGES)), net(torch.ones(IMAGES)))


def test_what_is_no_weights_file_is_refused(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "other.safetensors"
    refused("no such file: .*other.safetensors", load, path)
    refused("no such file", load, tmp_path)
    named = "other.safetensors is not a crossd weights file"
    path.write_text("hello, I am a text of some length\n" * 20)
    refused(named, load, path)
    path.write_bytes(b"")
    refused(named, load, path)
    for size in (4, 100, file.stat().st_size // 2, file.stat().st_size - 1):
        path.write_bytes(file.read_bytes()[:size])
        refused(named, load, path)
    torch.save(CROSS.build().state_dict(), path)
    refused(named, load, path)
    tensors = {"a": torch.zeros(2)}
    save_file(tensors, path)
    refused(named, load, path)
    for text in ("", "{}", "[1, 2]", "3", '{"model": "resnet-small"}', '"text"'):
        save_file(tensors, path, {"crossd": text})
        refused(named, load, path)
    values = dataclasses.asdict(CROSS)
    save_file(tensors, path, {"crossd": json.dumps(values | {"classes": 3})})
    refused(named, load, path)
    save_file(tensors, path, {"crossd": json.dumps(values | {"form": "4d"})})
    refused(r"form \(='4d'\) must be one of", load, path)
    save_file(tensors, path, {"crossd": json.dumps(values | {"model": "resnet19x"})})
    refused("no model called 'resnet19x'", load, path)


def test_a_later_version_may_say_more(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        values = json.loads(opened.metadata()["crossd"])
    save_file(tensors, file, {"crossd": json.dumps(values | {"colour": "blue"}), "author": "me"})
    assert given(load(file).config) == dataclasses.replace(CROSS, version=crossd.__version__)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda t: t.update({"0.weight": torch.zeros(1)}), "0.weight"),
        (lambda t: t.pop("1.running_mean"), "1.running_mean"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "extra"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    file: Path, change: Callable[[dict[str, Tensor]], Any], name: str
) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file, {"crossd": json.dumps(dataclasses.asdict(CROSS))})
    refused(f"does not fit the network 'resnet-small': 1 tensors differ.*'{name}'", load, file)


def test_a_failed_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save(CROSS.build(), file, CROSS)
    monkeypatch.undo()
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


# Files turned


@pytest.mark.parametrize("form", some(["projection", "fourier", "acs"], ["projection"]))
@pytest.mark.parametrize("to", ["2d", "3d"])
def test_convert_file_gives_plain_networks(tmp_path: Path, form: str, to: str) -> None:
    net, source, out = noisy(FORMS[form].build()), tmp_path / "a.st", tmp_path / "b" / "b.st"
    save(net, source, FORMS[form])
    report = convert_file(source, to, out)
    plain: Any = load(out)
    options = FORMS[form].mode_options | ({"view": "axial"} if to == "2d" else {})
    changed: dict[str, Any] = {"form": to, "mode_options": options, "version": crossd.__version__}
    assert given(plain.config) == dataclasses.replace(FORMS[form], **changed)
    expected: Any = crossd.to_2d(net) if to == "2d" else crossd.to_3d(net)
    assert str(report) == str(expected.conversion)
    assert all(not type(m).__module__.startswith("crossd") for m in plain.modules())
    x = torch.randn(IMAGES if to == "2d" else VOLUMES)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), expected(x))
        if to == "3d":
            torch.testing.assert_close(plain(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_convert_file_takes_a_view_and_aligns(tmp_path: Path) -> None:
    net, source, out = noisy(CROSS.build()), tmp_path / "a.st", tmp_path / "b.st"
    save(net, source, CROSS)
    convert_file(source, "2d", out, view="sagittal")
    x = torch.randn(IMAGES)
    torch.testing.assert_close(load(out)(x), crossd.to_2d(net, "sagittal")(x))
    moved = noisy(FORMS["fourier"].build())
    save(moved, source, FORMS["fourier"])
    convert_file(source, "3d", out, align=True)
    x = torch.randn(VOLUMES)
    torch.testing.assert_close(load(out)(x), crossd.to_3d(moved, align=True)(x))


def test_convert_file_makes_a_2d_network_cross(tmp_path: Path) -> None:
    net, source, out = noisy(FORMS["2d"].build()), tmp_path / "a.st", tmp_path / "b.st"
    save(net, source, FORMS["2d"])
    convert_file(source, "cross", out)
    cross: Any = load(out)
    assert cross.config.form == "cross"
    images = torch.randn(IMAGES)
    torch.testing.assert_close(cross(images), net(images), rtol=1e-4, atol=1e-5)
    assert cross(torch.randn(VOLUMES)).shape == (2, 3)


@pytest.mark.parametrize("to", ["acs", "cycle", "inflate", "triplanar"])
def test_convert_file_puts_2d_kernels_into_volumes_as_the_arms_do(tmp_path: Path, to: str) -> None:
    net, source, out = noisy(FORMS["2d"].build()), tmp_path / "a.st", tmp_path / "b.st"
    save(net, source, FORMS["2d"])
    form = to if to in ("acs", "cycle") else "cross"
    convert_file(source, form, out, lift="center" if to == form else to)
    made: Any = load(out)
    assert made.config.form == form
    x = torch.randn(VOLUMES)
    expected = getattr(crossd, to)(net)(x)
    torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-5)


def test_convert_file_refuses_what_it_cannot_do(tmp_path: Path, file: Path) -> None:
    out, solid = tmp_path / "out.safetensors", tmp_path / "solid.safetensors"
    refused("holds a cross network already", convert_file, file, "cross", out)
    refused("holds a cross network, which cannot become 4d", convert_file, file, "4d", out)
    refused("view .*'front'.* must be one of", convert_file, file, "2d", out, view="front")
    refused("view .* is for a conversion to 2d", convert_file, file, "3d", out, view="coronal")
    refused("align is for .* fourier", convert_file, file, "3d", out, align=True)
    refused("--lift inflate is for --to cross, of", convert_file, file, "3d", out, lift="inflate")
    refused("holds a cross network, which cannot become acs", convert_file, file, "acs", out)
    cycle = dataclasses.replace(CROSS, form="cycle")
    save(noisy(cycle.build()), solid, cycle)
    refused("holds a cycle network: crossd export", convert_file, solid, "3d", out)
    refused("of cycle, which has one 2D network", convert_file, solid, "2d", out, view="coronal")
    refused("3d of cycle network is not rebuilt", save, crossd.to_3d(load(solid)), out, cycle)
    assert not out.exists()
    refused("no such file", convert_file, tmp_path / "nothing", "3d", out)
    convert_file(file, "3d", solid)
    refused("holds a 3d network, which cannot become 2d", convert_file, solid, "2d", out)
    refused("holds a 3d network, which cannot become cross", convert_file, solid, "cross", out)
    refused("cannot become acs: that is for plain 2D ones", convert_file, solid, "acs", out)
    assert not out.exists()


# Networks made by options


def test_forms_are_those_that_can_be_built() -> None:
    images, solid = torch.randn(IMAGES), torch.randn(VOLUMES)
    for form in weights_file.FORMS:
        net = dataclasses.replace(SMALL, form=form).build().eval()
        for x in (images,) * (form != "3d") + (solid,) * (form != "2d"):
            assert net(x).shape == (2, 3)


def test_what_a_network_was_made_by_is_kept_with_it(tmp_path: Path) -> None:
    def plain() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 2, 1))

    torch.manual_seed(0)
    source = plain()
    config = WeightsConfig("custom", "segmentation", 1, ("a", "b"))
    x, flat = torch.randn(1, 1, 9, 16, 16), torch.randn(1, 1, 16, 16)
    net = crossd.convert(source, "slice", depth_stride=1, depth_kernel=1, in_channels=1)
    for name, one, given in (
        ("cross", net, x),
        ("3d", crossd.to_3d(net), x),
        ("2d", crossd.to_2d(net), flat),
    ):
        crossd.save(one.eval(), tmp_path / "n.safetensors", config)
        again = crossd.load(tmp_path / "n.safetensors", model=plain())
        assert again.config.form == name and again.config.kernel_mode == "slice"  # type: ignore[union-attr]
        torch.testing.assert_close(again(given), one(given))
        crossd.save(again, tmp_path / "again.safetensors")
        torch.testing.assert_close(
            crossd.load(tmp_path / "again.safetensors", model=plain())(given), one(given)
        )


# Damage


def damaged(file: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Rewrite what a weights file says of itself."""
    with safe_open(file, "pt") as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}
        values = json.loads(opened.metadata()["crossd"])
    change(values)
    path = file.with_name("damaged.safetensors")
    save_file(state, path, {"crossd": json.dumps(values)})
    return path


DECIDED: list[tuple[str, Any]] = [
    *(("views", v) for v in ([], [5], "abc", 3)),
    *(("stages", v) for v in ([[1]], [2], [["a", 1]])),
    *(("repeat", v) for v in (0, -3, "x", True)),
    *(("attention", "foo"), ("depth_padding", "foo"), ("position", "nope"), ("position", 3)),
    *(("positions", -4), ("positions", 10**9), ("layers", [1]), ("mixes", "no"), ("features", 0)),
]


@pytest.mark.parametrize(("name", "value"), DECIDED)
def test_what_was_decided_is_read_only_where_it_can_be(file: Path, name: str, value: Any) -> None:
    def change(values: dict[str, Any]) -> None:
        assert name in values["decided"]
        values["decided"][name] = value

    refused(r"(what was decided: .*damaged|has no layer 'nope')", load, damaged(file, change))


@pytest.mark.parametrize("value", [None, "junk", -1, [], {"a": 1}])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(WeightsConfig)])
def test_what_a_file_says_of_itself_is_held_against_what_it_may_say(
    file: Path, answer: Tensor, name: str, value: Any
) -> None:
    path = damaged(file, lambda values: values.update({name: value}))
    try:
        net = load(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:  # what changes nothing of the network
        torch.testing.assert_close(net(torch.ones(IMAGES)), answer)
