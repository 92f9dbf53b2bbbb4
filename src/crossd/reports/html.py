"""A report as one HTML file: nothing is loaded from elsewhere, pictures are inside.

The text is that of `report.md`. What names of files and classes hold is shown as it is, never run:
Markdown passes no HTML, and the page allows no script but its own, by its hash.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from PIL import Image

from crossd.reports.slice_viewer import Case, cases_html, data_uri

OFF = (
    "link",
    "autolink",
    "html_inline",
    "html_block",
    "entity",
    "escape",
    "reference",
    "heading",
    "lheading",
    "code",
    "hr",
    "newline",
)
"""Parts of Markdown that reports do not use, and names must not."""

DOTS = 150 / 96
"""Pixels of our pictures per pixel of a page."""

LATE = ("Cost", "Time and memory", "How to repeat", "Versions")
"""Sections that come after the cases."""


def render(
    text: str,
    headline: str,
    folder: Path,
    cases: Sequence[Case] = (),
    without: Sequence[str] = (),
    scans: Sequence[str] = (),
) -> str:
    r"""Return the page of a report.

    Args:
        text: The report as Markdown: a title, then sections.
        headline: The result in a sentence; a line of the text that says the same is left out.
        folder: Where the report's pictures are.
        cases: To look at.
        without: Titles of sections to leave out, as the cases show the same.
        scans: File names of pictures that show samples: they stay as they are on a dark page.

    Example:
        >>> page = render("# On <b>\n\n## Results\n\n| a |\n| :-- |\n| 1 |", "It works.", Path())
        >>> "<h1>On &lt;b&gt;</h1>" in page, "<td" in page
        (True, True)
    """
    env: EnvType = {"folder": folder, "scans": scans}
    told = text.replace(f"\n{headline}\n", "\n", 1)
    first, *parts = f"\n{told}".split("\n## ")
    title, _, lead = first.strip().partition("\n")
    named = (part.partition("\n") for part in parts)
    sections = [(name, _rendered(body, env)) for name, _, body in named if name not in without]
    if cases:
        sections.append(("Cases", cases_html(cases)))
    sections.sort(key=lambda section: section[0] in LATE)  # stable
    names = [name for name, _ in sections]
    script = _part("report.js")
    return Template(_part("report.html")).substitute(
        title=escape(title.removeprefix("# ")),
        headline=escape(headline),
        style=_part("report.css"),
        script=script,
        hash=_hash("\n" + script),
        links="".join(f'<li><a href="#s{i}">{escape(n)}</a></li>' for i, n in enumerate(names)),
        body="\n".join(
            [_rendered(lead, env)]
            + [
                f'<section id="s{i}"><h2>{escape(name)}</h2>\n{body}</section>'
                for i, (name, body) in enumerate(sections)
            ]
        ),
    )


def _hash(script: str) -> str:
    """Return what a page's policy calls a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _part(name: str) -> str:
    return (resources.files("crossd.reports") / "templates" / name).read_text(encoding="utf-8")


def _rendered(text: str, env: EnvType) -> str:
    return str(_parser().render(text, dict(env)))


@cache
def _parser() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).enable("table").disable(OFF)
    made.add_render_rule("table_open", lambda *_: _SCROLL.format("table") + "<table>")
    made.add_render_rule("table_close", lambda *_: "</table></div>")
    made.add_render_rule("fence", _fence)
    made.add_render_rule("image", _image)
    return made


_SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="{}">'


def _fence(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    """Fold the configuration, which is long, away; a command stays in sight."""
    block = f'<pre tabindex="0"><code>{escape(tokens[index].content)}</code></pre>\n'
    if tokens[index].info.strip() != "json":
        return block
    return f"<details><summary>The configuration</summary>{block}</details>\n"


def _image(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    token = tokens[index]
    alt = self.renderInlineAsText(token.children, options, env)
    return _picture(env, unquote(str(token.attrs["src"])), alt)


def _picture(env: EnvType, name: str, alt: str) -> str:
    """Put a picture of the report's own folder into the page; of others the name alone."""
    path = env["folder"] / name
    if name != path.name or path.suffix not in (".png", ".gif") or not path.is_file():
        return escape(alt)
    held = path.read_bytes()
    width, height = (round(side / DOTS) for side in Image.open(io.BytesIO(held)).size)
    kind = ' class="scan"' if name in env["scans"] else ""
    return (
        f'{_SCROLL.format(escape(alt))}<img{kind} src="{data_uri(held)}" alt="{escape(alt)}" '
        f'width="{width}" height="{height}"></div>'
    )
