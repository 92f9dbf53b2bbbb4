"""What README and the documentation show works: code runs, commands parse, links lead somewhere.

The python blocks of a page run in order in one namespace, in an empty folder. What a page takes
for granted (images, weights files of others, a hub) is small here.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import timm
import torch
from torch import nn

import crossd
from crossd.cli import command_line as cli
from crossd.cli.command_line import main
from crossd.cli.parser import build
from crossd.data.preprocessing import plan_file

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NAMES = {path: str(path.relative_to(ROOT)) for path in PAGES}
OF_OTHERS = {
    *("--help", "--version", "--print_completion", "--print_config", "--config"),
    *("--nproc-per-node", "--ntasks-per-node", "--nodes", "--signal"),  # of torchrun and Slurm
}


def blocks(text: str, kinds: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the content of fenced blocks of some kinds."""
    for found in re.finditer(rf"^```(?:{kinds})\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, found.start(1)) + 1, found[1]


def with_code(page: Path) -> bool:
    return any(blocks(page.read_text(encoding="utf-8"), "python"))


def plain(channels: int = 1, classes: int = 11) -> nn.Module:
    net: nn.Module = timm.create_model("resnet18", num_classes=classes, in_chans=channels)
    return net


def a_tiny_net(names: dict[str, Any]) -> None:
    names["net"] = crossd.convert(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())).eval()


def others(names: dict[str, Any]) -> None:
    """Weights of others, and a hub that is a folder."""
    names["net"] = net = crossd.convert(plain())
    torch.save({"state_dict": crossd.to_3d(net).state_dict()}, "resnet_50_23dataset.pth")


def own_network(names: dict[str, Any]) -> None:
    names["model"] = names["the_2d_network"] = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(3, 2),
    )
    names["batches"] = names["volumes"].split(1)


def exported(names: dict[str, Any]) -> None:
    a_tiny_net(names)
    names["net"].config = crossd.WeightsConfig("custom", "classification", 1, ("a", "b"))
    crossd.export(names["net"], "net.onnx", to="2d", size=16)
    names["image"] = torch.randn(1, 1, 64, 64)


def arms(names: dict[str, Any]) -> None:
    labels = np.arange(90) % 2
    values = (
        np.random.default_rng(0).integers(0, 60, (90, 8, 8, 8)) + 90 * labels[:, None, None, None]
    )
    np.savez("volumes.npz", images=values.astype(np.uint8), labels=labels)

    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1, 2))

    names["my_network"] = names["their_network"] = network


STANDINS: dict[str, Callable[[dict[str, Any]], None]] = {
    "docs/compare.md": arms,
    "docs/export.md": exported,
    "docs/networks.md": own_network,
    "docs/weights.md": others,
}
"""What a page takes for granted, beside images, volumes and labels."""


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names that any page may use; a ResNet18 is a small one, and the hub a folder."""
    create = timm.create_model

    def small(name: str, **options: Any) -> Any:
        return create("test_resnet" if name == "resnet18" else name, **options)

    def push(net: nn.Module, repo_id: str, **card: Any) -> None:
        crossd.save_pretrained(net, repo_id, **card)

    monkeypatch.setattr(timm, "create_model", small)
    monkeypatch.setattr(crossd, "push_to_hub", push)
    monkeypatch.chdir(tmp_path)
    images, volumes = torch.randn(2, 1, 32, 32), torch.randn(2, 1, 32, 32, 32)
    return {
        "images": images,
        "volumes": volumes,
        "coronal_slices": images,
        "labels": torch.tensor([0, 1]),
        "criterion": nn.CrossEntropyLoss(),
        "class_names": tuple(map(str, range(11))),
        "crossd": crossd,
    }


@pytest.mark.parametrize("page", [page for page in PAGES if with_code(page)], ids=NAMES.get)
def test_code_runs(
    page: Path, namespace: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()  # where the commands of the pages put results
    monkeypatch.chdir(tmp_path)
    STANDINS.get(NAMES[page], lambda names: None)(namespace)
    text = page.read_text(encoding="utf-8")
    for line, code in blocks(text, "python"):
        exec(compile("\n" * (line - 1) + code, NAMES[page], "exec"), namespace)


def commands(text: str) -> Iterator[str]:
    """Yield the crossd commands of fenced and indented blocks, continued lines joined."""
    shown = [block for _, block in blocks(text, "console|bash|sh|text|")]
    bare = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    shown += re.findall(r"(?<=\n\n)(?:(?: {4}|\t).*\n)+", bare)
    for block in shown:
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(
                r"\s*(?:\$ )?(?:(?:torchrun|srun) .*?)?\bcrossd +([a-z]+ .*|[a-z]+)$", line
            )
            if found:
                yield found[1]


def parsed(line: str) -> tuple[str, Any]:
    """Parse a command line as the program does, as far as it needs no file."""
    name, *arguments = shlex.split(line, comments=True)
    arguments = arguments[: next((i for i, a in enumerate(arguments) if a in ("|", ">")), None)]
    kind = cli.options_of(name)
    return name, build(name, kind, "").parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=NAMES.get)
def test_commands_parse(page: Path) -> None:
    for line in commands(page.read_text(encoding="utf-8")):
        try:
            parsed(line)
        except Exception as error:
            pytest.fail(f"{NAMES[page]} shows `crossd {line}`: {error}")


def test_commands_are_found() -> None:
    shown = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    found = {shlex.split(line, comments=True)[0] for line in commands(shown)}
    assert found >= {"pretrain", "finetune", "predict", "evaluate", "inspect", "status", "joint"}
    with pytest.raises(Exception, match="no-such-option"):
        parsed("pretrain --no-such-option 3")


def options(command: str) -> set[str]:
    parser = build(command, cli.options_of(command), "")
    return {name for action in parser._actions for name in action.option_strings}


def of_the_benchmark() -> set[str]:
    """Return the options of benchmarks/cost.py."""
    text = (ROOT / "benchmarks" / "cost.py").read_text(encoding="utf-8")
    own = text.partition("class CostConfig")[2].partition("\ndef ")[0]
    fields = re.findall(r"^    (\w+): \w+ = ", own, re.MULTILINE)
    assert len(fields) > 5
    return {f"--{name.replace('_', '-')}" for name in fields}


@pytest.mark.parametrize("page", PAGES, ids=NAMES.get)
def test_options_in_the_text_exist(page: Path) -> None:
    known = OF_OTHERS.union(of_the_benchmark(), *map(options, cli.COMMANDS))
    bare = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for span in re.findall(r"`([^`]+)`", bare):
        command = re.match(r"crossd ([a-z]+)", span)
        allowed = OF_OTHERS | options(command[1]) if command else known
        for name in re.findall(r"(?<!\S)--[a-z][\w-]*", span):
            assert name in allowed, f"{NAMES[page]} names {name} in `{span}`"


def without_code(text: str) -> str:
    """Leave out fenced blocks and code in a line: no link of theirs is one."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def anchors(path: Path) -> set[str]:
    """Return the places of a page that a link may name."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r"^\((\S+)\)=$", text, re.MULTILINE))


def dead_links(page: Path) -> list[str]:
    """Return the links and pictures of a page that lead to no file, or to no heading of one."""
    text = without_code(page.read_text(encoding="utf-8"))
    found = re.findall(r"\]\(\s*<?([^)\s>]+)[^)]*\)", text)
    found += re.findall(r"(?:href|src)=\"([^\"]+)\"", text)
    found += re.findall(r"^\s*\[[^\]]+\]:\s+(\S+)", text, re.MULTILINE)
    dead = []
    for target in found:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / unquote(name)).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            dead.append(target)
    return dead


WITH_LINKS = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A title: `code`\n\n```sh\n# no title\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n\n[a](other.md) [b](other.md#a-title-code) [c](#here) `[d](code)` [e](http://x.y)\n"
        '[f](gone.md) [g](other.md#no-title) [h](#there) ![i](gone.png) <img src="gone.svg">\n\n'
        "[j]: lost.md\n"
    )
    expected = ["gone.md", "other.md#no-title", "#there", "gone.png", "gone.svg", "lost.md"]
    assert dead_links(page) == expected


def test_every_page_is_in_the_contents() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {name for _, block in blocks(index.read_text(encoding="utf-8"), "{toctree}")
              for name in block.split() if name.isidentifier()}  # fmt: skip
    assert listed >= {page.stem for page in PAGES[1:]} - {"index"}


def test_the_plan_on_the_page_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (_, shown), *_ = blocks(text, "yaml")
    path = tmp_path / "plan.yaml"
    path.write_text(shown)
    read, classes, ignore = plan_file.read(path)
    assert read.patch == (24, 312, 280)
    assert classes == {0: "background", 1: "anterior", 2: "posterior"} and ignore == 255


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the page but the comparison, in order, on coarser brains and fewer of them."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (tmp_path / "runs").mkdir()  # as the first command of the page does
    for _, code in blocks(text, "python"):
        exec(code, {})
    ran = []
    for line in commands(text):
        name, *given = shlex.split(line, comments=True)
        given = ["brain:8" if one == "brain" else one for one in given]
        if name == "transfer":  # its own tests run it
            continue
        given += ["--limit", "2"] if name == "pretrain" else []
        assert main([name, *given]) == 0, line
        ran.append(name)
    assert ran == ["doctor", "pretrain", "recalibrate", "predict", "inspect"]
    assert (tmp_path / "runs" / "masks" / "t1.nii.gz").is_file()
