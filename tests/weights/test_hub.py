"""Networks shared: a folder here, and a hub on this machine that speaks its few endpoints."""

import base64
import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml
from helpers import close, normal, randomize, some
from torch import nn

import crossd
from crossd import InputError, from_pretrained, push_to_hub, save_pretrained
from crossd.weights.weights_file import WeightsConfig

CONFIG = WeightsConfig("resnet-small", "classification", 1, ("liver", "spleen"), size=(28, 28))
ABOUT: dict[str, Any] = {
    "licence": "cc-by-nc-4.0",
    "data": "8,739 slices of 971 CT volumes.",
    "metrics": {"accuracy": 0.943, "f1": 0.9},
    "limits": "Children were not among the patients; {braces} stay.",
}
TOKEN = "hf_of_the_test"


@dataclass
class Hub:
    """A hub in memory: repositories of files, with the commit they came by."""

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)

    @property
    def head(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does: JSON, and errors that are named in a header."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.agents.add(self.headers["User-Agent"])
        path = self.path.partition("?")[0].strip("/").split("/")
        if len(path) != 5 or path[2] != "resolve":
            return self.fail(404, "RepoNotFound")
        repo, revision, name = "/".join(path[:2]), path[3], path[4]
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo in self.hub.gated:
            return self.fail(403, "GatedRepo")
        if repo not in self.hub.repos or (self.hub.private.get(repo) and not known):
            return self.fail(401, "RepoNotFound")
        if revision not in ("main", self.hub.head):
            return self.fail(404, "RevisionNotFound")
        if name not in self.hub.repos[repo]:
            return self.fail(404, "EntryNotFound")
        content = self.hub.repos[repo][name]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.answer(200, content, ETag=etag, X_Repo_Commit=self.hub.head)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        body = self.body()
        path = self.path.partition("?")[0].strip("/").split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.fail(401, "Unauthorized")
        if path == ["api", "validate-yaml"]:
            self.hub.cards.append(json.loads(body)["content"])
            return self.answer(200, {"errors": [], "warnings": []})
        if path == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            address = {"url": f"{self.hub.url}/{repo}"}
            if repo in self.hub.repos:
                return self.answer(409, address)
            self.hub.repos[repo] = {}
            hidden = asked.get("private", False) or asked.get("visibility") == "private"
            self.hub.private[repo] = hidden
            return self.answer(200, address)
        repo, verb = "/".join(path[2:4]), path[4]
        if verb == "preupload":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            told = [{"path": file["path"], **modes} for file in json.loads(body)["files"]]
            return self.answer(200, {"files": told})
        assert verb == "commit"
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        self.hub.commits.append(files)
        self.hub.repos[repo].update(files)
        commit = f"{self.hub.url}/{repo}/commit/{self.hub.head}"
        self.answer(200, {"success": True, "commitOid": self.hub.head, "commitUrl": commit})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Hub()
    handler = type("Bound", (Handler,), {"hub": found})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(3)
    return CONFIG.build().eval()


def refused(message: str, function: Callable[..., Any], *given: Any, **named: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        function(*given, **named)
    assert "\n" not in str(caught.value)


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


# Folders


def test_a_folder_holds_the_network_and_its_card(net: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    save_pretrained(net, folder, config=CONFIG, **ABOUT)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]
    for source in (folder, str(folder), folder / "model.safetensors"):
        again: Any = from_pretrained(source)
        same(again, net)
        assert dataclasses.replace(again.config, decided=None) == dataclasses.replace(
            CONFIG, version=crossd.__version__
        )
    save_pretrained(again, tmp_path / "again", **ABOUT)  # the configuration that came with it
    assert (tmp_path / "again" / "README.md").read_text() == (folder / "README.md").read_text()


def test_the_card_says_what_it_must(net: nn.Module, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, mean=12.5, std=3.0, spacing=(2.0, 1.0, 1.0))
    save_pretrained(net, tmp_path, config=config, **ABOUT)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    header = yaml.safe_load(head)
    assert header["license"] == "cc-by-nc-4.0" and header["library_name"] == "crossd"
    assert header["pipeline_tag"] == "image-classification"
    assert header["metrics"] == ["accuracy", "f1"]
    sections = dict(part.split("\n\n", 1) for part in body.split("## ")[1:])
    assert sections["Data"].strip() == ABOUT["data"]
    assert "| accuracy | 0.943 |\n| f1 | 0.9 |" in sections["Metrics"]
    assert ABOUT["limits"] in sections["Limits"] and "Not a medical device" in sections["Limits"]
    assert sections["Licence"].strip() == "cc-by-nc-4.0"
    for text in ("liver, spleen", "2 x 1 x 1 mm (z, y, x)", "minus 12.5, divided by 3", "28 x 28"):
        assert text in body, text
    assert 'from_pretrained("path/to/this/folder")' in sections["Use"]


def test_a_folder_is_not_overwritten_unasked(net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    refused("has README.md already", save_pretrained, net, tmp_path, config=CONFIG, **ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "notes.txt").write_text("mine")
    save_pretrained(net, tmp_path, config=CONFIG, overwrite=True, **ABOUT)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    named = "model.safetensors and README.md already"
    refused(named, save_pretrained, net, tmp_path, config=CONFIG, **ABOUT)


@pytest.mark.parametrize("name", ABOUT)
def test_a_card_leaves_nothing_out(name: str, net: nn.Module, tmp_path: Path) -> None:
    about = ABOUT | {name: {} if name == "metrics" else "  "}
    refused(f"{name} is empty", save_pretrained, net, tmp_path, config=CONFIG, **about)
    assert not list(tmp_path.iterdir())
    refused("no configuration", save_pretrained, nn.Linear(1, 1), tmp_path, **ABOUT)


def test_what_is_no_network_here_is_refused(net: nn.Module, tmp_path: Path) -> None:
    refused("no model.safetensors in the folder", from_pretrained, tmp_path)
    (tmp_path / "model.safetensors").write_text("nothing")
    refused("is not a crossd weights file", from_pretrained, tmp_path)
    refused("revision .* is for a repository", from_pretrained, tmp_path, revision="main")
    for name in ("no-slash", "a/b/c", "/no/such/folder", "a b/c"):
        refused("no folder or file .*, and no repository is called so", from_pretrained, name)


def test_a_custom_network_needs_its_model(tmp_path: Path) -> None:
    source = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    config = dataclasses.replace(CONFIG, model="custom")
    net = crossd.convert(source)
    save_pretrained(net, tmp_path, config=config, **ABOUT)
    refused("custom model", from_pretrained, tmp_path)
    same(from_pretrained(tmp_path, model=source), net)
    assert ", model=...)" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_folders_are_read_without_the_hubs_library(net: nn.Module, tmp_path: Path) -> None:
    save_pretrained(net, tmp_path, config=CONFIG, **ABOUT)
    code = f"""
import sys
sys.modules["huggingface_hub"] = None
import crossd
print(crossd.from_pretrained({str(tmp_path)!r}).config.classes)
try:
    crossd.from_pretrained("user/name")
except crossd.InputError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "('liver', 'spleen')",
        "hubs and model cards need huggingface_hub: pip install 'crossd[all]'",
    ]


# A hub


def test_a_network_goes_up_and_comes_down(net: nn.Module, hub: Hub, tmp_path: Path) -> None:
    there: dict[str, Any] = {"endpoint": hub.url, "token": TOKEN}
    address = push_to_hub(net, "user/organs", config=CONFIG, **ABOUT, **there)
    assert address == f"{hub.url}/user/organs/commit/{hub.head}"
    assert hub.private == {"user/organs": True}
    assert [sorted(files) for files in hub.commits] == [["README.md", "model.safetensors"]]
    assert hub.cards == [hub.commits[0]["README.md"].decode()]
    assert 'from_pretrained("user/organs")' in hub.cards[0]
    cache = tmp_path / "cache"
    for revision in (None, "main", hub.head):
        again: Any = from_pretrained("user/organs", revision=revision, cache_dir=cache, **there)
        same(again, net)
        assert again.config.classes == CONFIG.classes
    assert any("crossd" in agent for agent in hub.agents)
    refused("no folder, file or repository user/organs at .*token", from_pretrained, "user/organs",
            endpoint=hub.url, token="hf_another", cache_dir=tmp_path / "other")  # fmt: skip


UNET = "monai:UNet(spatial_dims=2, channels=(4, 8), strides=(2,), num_res_units=1)"
VIT = "vit_tiny_patch16_224(img_size=16, patch_size=8, embed_dim=24, num_heads=3, depth=2)"
NUMBERS = {"units": ("ml", ""), "number_mean": (3.0, 40.0), "number_std": (0.5, 12.0)}
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "born in 3D": (
        {"model": "monai:SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,))"},
        ("volumes (a 3D network)", "an image is a volume one voxel deep", "axial, coronal"),
    ),
    "code of many slices": (
        {"model": "monai:SegResNetDS(init_filters=8, blocks_down=(1, 1, 1))"},
        ("volumes (a 3D network)", "an image is repeated to a volume of 16 slices"),
    ),
    "attention over volumes": (
        {"model": VIT, "task": "classification", "mode_options": {"attention": "volume"}},
        ("1 of 1 convolutions", "attention sees the tokens of all slices", "| views | axial |"),
    ),
    "depth of its own": (
        {"model": "resnet-small", "task": "classification", "mode_options": {"depth_stride": 1}},
        ("images (a 2D network)", "a volume is a batch of slices", "depth is strided by 1 |"),
    ),
    "U-Net": ({"model": UNET}, ("images (a 2D network)", "depth follows the plane")),
    "findings": ({"task": "multilabel"}, ("depth follows the plane",)),
    "numbers": ({"task": "regression", **NUMBERS}, ("liver [ml], spleen", "in their units")),
}


@pytest.mark.parametrize("kind", some(KINDS, ("born in 3D", "attention over volumes", "numbers")))
def test_every_kind_goes_up_and_comes_down(kind: str, hub: Hub, tmp_path: Path) -> None:
    changes, told = KINDS[kind]
    task = changes.get("task", "segmentation")
    config = dataclasses.replace(CONFIG, **{"model": "resnet-small", **changes, "task": task})
    net = config.build()
    randomize(net)
    net.eval()
    there: dict[str, Any] = {"endpoint": hub.url, "token": TOKEN}
    push_to_hub(net, "user/net", config=config, **ABOUT, **there)
    again: Any = from_pretrained("user/net", cache_dir=tmp_path, **there)
    same(again, net)
    for shape in ((2, 1, 16, 16), (1, 1, 16, 16, 16)):
        x = normal(*shape, dtype=torch.float32)
        with torch.no_grad():
            close(again(x), net(x))
    own = again.crossd_config if hasattr(again, "crossd_config") else again.config
    for name in ("task", "classes", "units", "number_mean", "number_std"):
        assert getattr(own, name) == getattr(config, name)
    for text in told:
        assert text in hub.cards[0], (text, hub.cards[0])
    save_pretrained(again, tmp_path / "again", config=own, **ABOUT)
    card = (tmp_path / "again" / "README.md").read_text().replace("path/to/this/folder", "user/net")
    assert card == hub.cards[0]


def test_the_card_of_a_plain_network_tells_no_folding(tmp_path: Path) -> None:
    net = crossd.to_3d(CONFIG.build())
    config = dataclasses.replace(CONFIG, form="3d")
    save_pretrained(net, tmp_path, config=config, **ABOUT)
    card = (tmp_path / "README.md").read_text()
    assert "takes volumes" in card and "folding" not in card and "made for" not in card


def test_a_repository_is_not_overwritten_unasked(net: nn.Module, hub: Hub) -> None:
    there: dict[str, Any] = {"endpoint": hub.url, "token": TOKEN, "config": CONFIG}
    hub.repos["user/net"] = {"README.md": b"mine"}
    refused("user/net has README.md already", push_to_hub, net, "user/net", **there, **ABOUT)
    assert not hub.commits and hub.repos["user/net"] == {"README.md": b"mine"}
    push_to_hub(net, "user/net", **there, **ABOUT, overwrite=True)
    assert len(hub.commits) == 1 and hub.repos["user/net"]["README.md"] != b"mine"
    push_to_hub(net, "user/public", **there, **ABOUT, private=False)
    assert hub.private == {"user/public": False}


def test_the_hubs_refusals_are_one_line(net: nn.Module, hub: Hub, tmp_path: Path) -> None:
    there: dict[str, Any] = {"endpoint": hub.url, "cache_dir": tmp_path}
    refused(
        "no folder, file or repository user/none at http", from_pretrained, "user/none", **there
    )
    hub.repos |= {"user/gated": {}, "user/empty": {}, "user/text": {"model.safetensors": b"text"}}
    hub.gated.add("user/gated")
    refused("user/gated at .* is gated: ask for access", from_pretrained, "user/gated", **there)
    refused("has no model.safetensors: it is not", from_pretrained, "user/empty", **there)
    refused("is not a crossd weights file", from_pretrained, "user/text", **there)
    refused("has no such revision", from_pretrained, "user/text", revision="v9", **there)
    refused("'user/a..b' cannot be a repository", from_pretrained, "user/a..b", **there)
    up: dict[str, Any] = {"endpoint": hub.url, "config": CONFIG, **ABOUT}
    refused("user/new at http", push_to_hub, net, "user/new", token="hf_wrong", **up)
    assert not hub.commits and "user/new" not in hub.repos


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where nobody listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_hub_that_takes_no_calls(net: nn.Module, nowhere: str) -> None:
    up: dict[str, Any] = {"endpoint": nowhere, "config": CONFIG, "token": TOKEN, **ABOUT}
    refused("user/net at http://127.0.0.1:.* failed", push_to_hub, net, "user/net", **up)


@pytest.mark.slow  # the hub's library tries again, longer each time
def test_a_hub_that_cannot_be_reached(nowhere: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"endpoint": nowhere, "cache_dir": tmp_path}
    refused(f"cannot reach {nowhere}", from_pretrained, "user/net", **given)


@pytest.mark.slow
def test_a_machine_without_a_network(hub: Hub, net: nn.Module, tmp_path: Path) -> None:
    """What was loaded once is there, and the rest is an error of one line."""
    push_to_hub(net, "user/net", config=CONFIG, endpoint=hub.url, token=TOKEN, **ABOUT)
    hub.private.clear()
    from_pretrained("user/net", endpoint=hub.url, cache_dir=tmp_path)
    code = f"""
import crossd
given = dict(endpoint={hub.url!r}, cache_dir={str(tmp_path)!r})
print(crossd.from_pretrained("user/net", **given).config.classes)
try:
    crossd.from_pretrained("user/other", **given)
except crossd.InputError as error:
    print(error)
"""
    run = [sys.executable, "-c", code]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "('liver', 'spleen')",
        f"cannot reach {hub.url}, and user/other is not in the cache",
    ]
