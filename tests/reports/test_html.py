"""The report as a page: whole, safe with any name, and working in a browser."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import some
from PIL import Image

from crossd.reports import curves, html, markdown, shown_cases
from crossd.reports.slice_viewer import Case

EVIL = "<script>alert(1)</script>"
TRICKS = (
    *(EVIL, "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "&lt;b&gt;", "$style"),
    *("![x](http://a.b/c.png)", "[x](javascript:alert(1))", "<http://a.b>", "a|b", r"c:\data\n"),
)
VOID = {"meta", "img", "input", "br"}


class Outline(HTMLParser):
    """Notes tags with their attributes and the text of a page, and that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def cases(name: str = "case", classes: tuple[str, ...] = ("none", "bone", "fat")) -> list[Case]:
    rng = np.random.default_rng(0)
    truth = np.zeros((6, 12, 12), np.uint8)
    truth[1:5, 3:9, 3:9] = 1
    truth[2:4, 5:8, 5:8] = 2
    answers = {"acs": np.roll(truth, 2, 2), "projection": np.roll(truth, 1, 1)}
    image = truth + rng.normal(0, 0.1, truth.shape)
    return [
        shown_cases.segmented(name, "The worst", image, truth, answers, classes, None),
        shown_cases.segmented(
            name, "The best", image, truth, {"a": truth}, classes, (2.0, 1.0, 1.0)
        ),
    ]


def record(data: str = "cases.csv", classes: tuple[str, ...] = ("bone", "fat")) -> dict[str, Any]:
    history = [{"epoch": i, "loss": 1 / i, "val": {"dice": i / 9}} for i in range(1, 5)]
    return {
        "command": "finetune",
        "data": data,
        "model": "unet",
        "test_samples": 12,
        "metrics": {"dice": 0.5, **{f"dice_{name}": 0.5 for name in classes}},
        "history": history,
        "config": {"data": data, "lr": 0.001},
        "versions": {"torch": "2.8.0"},
        "seconds": 12.5,
    }


def made(folder: Path, **more: Any) -> str:
    results = record(**more)
    curves.training(results, folder / "curves.png")
    return page(results, folder, cases())


def page(results: dict[str, Any], folder: Path, shown: list[Case]) -> str:
    spent = markdown.cost(12.5, "training samples", 600, 10.0)
    text = markdown.training(results, spent)
    return html.render(text, markdown.sentence(results), folder, shown)


def test_everything_is_there_in_order(tmp_path: Path) -> None:
    outline = Outline(made(tmp_path))
    text = " ".join(outline.words)
    order = [
        *("crossd finetune: unet on cases.csv", "Dice 0.500 on 12 test samples, never trained on."),
        *("dice_bone", "validation dice", "The worst", "projection", "12.5", "training samples"),
        *(
            "60.0",
            "peak memory",
            "CPU",
            '"lr": 0.001',
            "crossd finetune --config",
            "2.8.0",
        ),
    ]
    places = [text.index(one) for one in order]
    assert places == sorted(places)
    links = {attrs["href"] for attrs in outline.all("a")}
    assert links == {f"#{attrs['id']}" for attrs in outline.all("section")} and len(links) == 6


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    text = made(tmp_path)
    outline = Outline(text)
    policy = next(one for one in outline.all("meta") if "http-equiv" in one)["content"]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    for _, attrs in outline.tags:
        assert not {"srcset", "data", "action", "poster"} & set(attrs)
        assert all(
            (attrs.get(name) or "data:").startswith(("data:", "#")) for name in ("src", "href")
        )
        assert not [name for name in attrs if name.startswith("on")]
    addresses = re.findall(r"url\(([^)]{0,20})", text)
    assert len(addresses) == 7 and all(one.startswith("data:image/") for one in addresses)
    assert not outline.all("link") and "@import" not in text and "http:" not in text
    (image,) = outline.all("img")
    assert image["alt"] == "Curves" and (image["src"] or "").startswith("data:image/png;base64,")


def test_what_can_be_used_has_a_name(tmp_path: Path) -> None:
    outline = Outline(made(tmp_path))
    labelled = {attrs.get("for") for attrs in outline.all("label")}
    sliders = [one for one in outline.all("input") if one["type"] == "range"]
    assert len(sliders) == 2 and all(one["id"] in labelled for one in sliders)
    assert all(one.get("aria-label") for one in outline.all("select") + outline.all("fieldset"))
    assert [one["aria-label"] for one in outline.all("div") if one.get("role") == "img"] == [
        "case, slice 2 of 6",
        "case, slice 2 of 6",
    ]
    assert outline.all("html") == [{"lang": "en"}] and len(outline.all("h1")) == 1


@pytest.mark.parametrize("name", some(TRICKS, [*TRICKS][:3]))
def test_names_are_shown_and_never_run(tmp_path: Path, name: str) -> None:
    """Names of files and of classes are what users made them."""
    harmless = Outline(made(tmp_path))
    results = record(name, (name, "fat"))
    results["versions"][name] = "1"
    curves.training(results, tmp_path / "curves.png")
    own = cases(name, ("none", name, "fat"))
    outline = Outline(page(results, tmp_path, own))
    kinds = [tag for tag, _ in outline.tags]
    less = [tag for tag, _ in harmless.tags]
    for tag in {*kinds, *less} - {"tr", "td", "th"}:
        assert kinds.count(tag) == less.count(tag), tag
    assert f"crossd finetune: unet on {name}" in outline.words and name in outline.words
    assert all((one.get("src") or "data:").startswith("data:") for one in outline.all("img"))


def test_a_confusion_of_names_in_evaluations(tmp_path: Path) -> None:
    found = {"dice": 0.5, "dice_sd": None, "hd95": 2.0, "nsd": 0.9}
    results = {
        "command": "evaluate", "task": "segmentation", "data": EVIL, "part": "test", "samples": 3,
        "classes": ["none", EVIL], "metrics": {EVIL: found, "mean": found},
        "config": {"tolerance": 1.0},
        "worst": [{"case": EVIL, "dice": 0.1, "picture": "worst-1.png"}],
    }  # fmt: skip
    text = markdown.evaluation(results, [])
    shown = html.render(
        text, markdown.sentence(results), tmp_path, cases(EVIL), without=["The worst cases"]
    )
    outline = Outline(shown)
    assert len(outline.all("script")) == 1 and EVIL in outline.words and not outline.all("img")
    assert "The worst cases" not in outline.words
    assert "Dice 0.500 on 3 test samples." in outline.words


def test_pictures_of_other_folders_stay_out(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    curves.training(record(), tmp_path / "secret.png")
    shown = html.render("# t\n\n## s\n\n![a](../secret.png)", "h", tmp_path / "run")
    assert "<img" not in shown and ">a<" in shown


def test_scans_stay_as_they_are_on_a_dark_page(tmp_path: Path) -> None:
    curves.training(record(), tmp_path / "scan.png")
    Image.new("L", (8, 8)).save(tmp_path / "moves.gif")
    text = "# t\n\n## s\n\n![a](scan.png)\n\n![b](moves.gif)"
    first, second = Outline(html.render(text, "h", tmp_path, scans=["scan.png"])).all("img")
    assert first["class"] == "scan" and "class" not in second
    assert str(second["src"]).startswith("data:image/gif;base64,")


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

ACTS = """
const seen = {};
const all = (name) => [...document.querySelectorAll(name)];
const now = () => {
  const slice = document.querySelector(".slice");
  const layer = slice.querySelector(".layer");
  return [getComputedStyle(layer).backgroundPosition, slice.getAttribute("aria-label"),
    document.querySelector("output").textContent.trim()];
};
const shown = () => all(".case")[0].querySelectorAll(".layer").length
  - all(".case")[0].querySelectorAll(".layer[hidden]").length;
const names = () => [...all(".case")[0].querySelectorAll(".layer[data-kind=answer]")]
  .filter((one) => getComputedStyle(one).display !== "none").map((one) => one.dataset.number);
seen.before = now();
const slider = document.querySelector("input[type=range]");
slider.focus();
seen.focused = document.activeElement === slider;
slider.value = 5;
slider.dispatchEvent(new Event("input"));
seen.after = now();
seen.layers = [shown()];
seen.names = [names()];
const [prediction, truth] = all(".case")[0].querySelectorAll("input[type=checkbox]");
truth.click();
seen.layers.push(shown());
prediction.click();
seen.layers.push(shown());
prediction.click();
const chosen = document.querySelector("select");
chosen.value = "1";
chosen.dispatchEvent(new Event("change"));
seen.names.push(names());
const ground = () => getComputedStyle(document.body).backgroundColor;
seen.grounds = [ground()];
document.getElementById("theme").click();
seen.grounds.push(ground());
document.getElementById("theme").click();
seen.grounds.push(ground());
seen.width = [innerWidth, document.documentElement.scrollWidth];
document.body.dataset.seen = JSON.stringify(seen);
"""


def browse(text: str, folder: Path) -> tuple[str, str]:
    """Open a page as on a telephone; returns the page as it is then, and what was logged."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    assert BROWSER is not None
    options = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={folder / 'profile'}", "--window-size=390,844"),
        *("--enable-logging=stderr", "--dump-dom", (folder / "page.html").as_uri()),
    )
    done = subprocess.run(
        [BROWSER, *options], capture_output=True, timeout=300, env=dict(os.environ)
    )
    return done.stdout.decode(), done.stderr.decode()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_in_a_browser(tmp_path: Path) -> None:
    text = made(tmp_path)
    start, logged = browse(text, tmp_path)
    assert ":CONSOLE" not in logged  # the page's own script passes its own policy
    assert 'aria-valuetext="slice 2 of 6"' in start  # and was run

    policy = re.search(r"script-src '(sha256-[^']+)'", text)
    assert policy is not None
    allowed = text.replace(policy[1], "unsafe-inline")
    end, logged = browse(allowed.replace("</body>", f"<script>{ACTS}</script></body>"), tmp_path)
    assert ":CONSOLE" not in logged
    found = re.search(r'data-seen="([^"]+)"', end)
    assert found is not None
    seen = json.loads(found[1].replace("&quot;", '"'))
    assert seen["before"] == ["50% 0%", "case, slice 2 of 6", "2 of 6"]
    assert seen["after"] == ["100% 100%", "case, slice 6 of 6", "6 of 6"] and seen["focused"]
    assert seen["layers"] == [3, 2, 1]  # image, prediction and truth
    assert seen["names"] == [["0"], ["1"]]
    light, dark = "rgb(255, 255, 255)", "rgb(18, 23, 28)"
    assert seen["grounds"] in ([light, dark, light], [dark, light, dark])
    assert seen["width"][1] <= seen["width"][0] <= 500


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_script_that_is_not_ours_does_not_run(tmp_path: Path) -> None:
    """Were a name to slip through all the same, the policy would stop it."""
    other = "<script>document.body.dataset.ran = 1</script>"
    end, logged = browse(made(tmp_path).replace("</main>", f"{other}</main>"), tmp_path)
    assert "data-ran" not in end and "Content Security Policy" in logged
