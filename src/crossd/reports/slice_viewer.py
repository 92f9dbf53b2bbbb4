"""Volumes to leaf through in a page: slices as one picture, masks as see-through ones over it.

All slices lie side by side on a sheet, so that a volume is one picture in the page. Sheets are
shrunk until a case is small: a report stays a few megabytes, whatever the volumes.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from crossd.data.io.agreement import IGNORED

LABELS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#0072b2")
"""Colours of classes."""

UNKNOWN, NOT_KNOWN = "#d5dade", "not known"
"""Colour of what the truth does not know, and what it is called."""

SLICES = 48
"""Slices of a volume that are kept, at most."""

SIDES = (224, 160, 112, 80, 56)
"""Longer side of a slice [pixels], the largest that stays within the bytes."""

BYTES = 450_000
"""Of all sheets of a case."""

FILL, EDGE = 80, 255
"""Opacity of a mask and of its outline."""


@dataclass(frozen=True)
class Sheets:
    """A volume and its masks as pictures.

    Attributes:
        numbers: Of the slices that were kept, from 0.
        depth: Slices of the volume.
        columns: Slices in a row of a sheet.
        start: Place among `numbers` of the slice to show first.
        ratio: Width over height of a slice.
        image: A JPEG.
        truth: A PNG of outlines; None without a mask.
        answers: Name to PNG, of filled outlines.
        seen: Labels that some mask has.
        unknown: Whether the truth does not know all.
    """

    numbers: tuple[int, ...]
    depth: int
    columns: int
    start: int
    ratio: float
    image: bytes
    truth: bytes | None
    answers: Mapping[str, bytes]
    seen: tuple[int, ...]
    unknown: bool = False


@dataclass(frozen=True)
class Case:
    """A sample to look at.

    Attributes:
        name: Of the sample.
        said: A sentence on it.
        group: The heading it stands under.
        sheets: Its slices.
        classes: Names, the background first, for the colours of masks.
        header: Of a small table.
        rows: Of that table.
    """

    name: str
    said: str
    group: str
    sheets: Sheets
    classes: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def colour_of(label: int) -> str:
    """Return the colour of a label; there are few, which repeat."""
    return LABELS[(label - 1) % len(LABELS)]


def sheets(
    image: NDArray[np.floating],
    truth: NDArray[np.integer] | None = None,
    answers: Mapping[str, NDArray[np.integer]] | None = None,
    spacing: Sequence[float] | None = None,
) -> Sheets:
    """Put a volume and its masks on sheets.

    Args:
        image: ``(D, H, W)``, or ``(H, W)`` of an image.
        truth: Labels of the same shape, 0 the background, `IGNORED` what is not known.
        answers: Name to labels.
        spacing: Size of a voxel in the order of the axes [mm]; cubes without.

    Returns:
        The sheets, of at most `BYTES` where the smallest side allows it.

    Raises:
        ValueError: "the mask ..." when a shape is not that of the image.

    Example:
        >>> made = sheets(np.zeros((5, 8, 12)), np.ones((5, 8, 12), int))
        >>> made.numbers, made.columns, made.ratio, made.seen
        ((0, 1, 2, 3, 4), 3, 1.5, (1,))
    """
    masks = [] if truth is None else [("truth", truth)]
    masks += list((answers or {}).items())
    for name, mask in masks:
        if mask.shape != image.shape:
            raise ValueError(f"the mask {name} must be {image.shape}, not {mask.shape}")
    if image.ndim == 2:
        image, masks = image[None], [(name, mask[None]) for name, mask in masks]
        spacing = None if spacing is None else (1.0, *spacing[-2:])
    depth = len(image)
    numbers = np.unique(np.linspace(0, depth - 1, min(depth, SLICES)).round().astype(int))
    if truth is not None and (masks[0][1] == IGNORED).any():  # slices with labels may be few
        most = int(_labelled(masks[0][1]).sum((1, 2)).argmax())
        numbers = np.unique([*numbers, most])
    kept = [(name, mask[numbers].astype(np.uint8)) for name, mask in masks]
    start = len(numbers) // 2
    if truth is not None and _labelled(kept[0][1]).any():
        start = int(_labelled(kept[0][1]).sum((1, 2)).argmax())
    grey, way = _grey(image[numbers]), -1 if depth > 1 else 1  # y of volumes grows upwards
    height, width = (float(side) for side in image.shape[1:])
    if spacing is not None:
        height, width = height * spacing[1], width * spacing[2]
    columns = math.ceil(math.sqrt(len(numbers)))
    for side in SIDES:
        shape = [max(8, round(side * length / max(height, width))) for length in (width, height)]
        tiles = _resized(grey[:, ::way], shape, Image.Resampling.BICUBIC)
        picture = _encoded(Image.fromarray(_sheet(tiles, columns)), "JPEG", quality=80)
        layers = []
        for place, (_, mask) in enumerate(kept):
            tiles = _resized(mask[:, ::way], shape, Image.Resampling.NEAREST)
            layers.append(_coloured(tiles, columns, filled=truth is None or place > 0))
        if len(picture) + sum(map(len, layers)) <= BYTES:
            break
    seen = {int(label) for _, mask in kept for label in np.unique(mask)}
    first = 0 if truth is None else 1
    return Sheets(
        numbers=tuple(int(number) for number in numbers),
        depth=depth,
        columns=columns,
        start=start,
        ratio=width / height,
        image=picture,
        truth=layers[0] if first else None,
        answers=dict(zip(answers or {}, layers[first:], strict=True)),
        seen=tuple(sorted(seen - {0, IGNORED})),
        unknown=IGNORED in seen,
    )


def _labelled(mask: NDArray[np.integer]) -> NDArray[np.bool_]:
    return (mask > 0) & (mask != IGNORED)


def _grey(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Spread the middle 98 % of the values over the greys."""
    image = np.nan_to_num(image.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = np.percentile(image, (1, 99))
    return (255 * np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)).astype(np.uint8)


def _resized(
    planes: NDArray[np.uint8], size: Sequence[int], how: Image.Resampling
) -> NDArray[np.uint8]:
    """Resize slices ``(n, H, W)`` to (width, height)."""
    width, height = size
    tiles = (Image.fromarray(np.ascontiguousarray(plane)) for plane in planes)
    return np.stack([np.asarray(tile.resize((width, height), how)) for tile in tiles])


def _sheet(tiles: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Lay slices side by side, row after row."""
    count, height, width = tiles.shape
    rows = -(-count // columns)
    full = np.zeros((rows * columns, height, width), np.uint8)
    full[:count] = tiles
    grid = full.reshape(rows, columns, height, width)
    return grid.swapaxes(1, 2).reshape(rows * height, columns * width)


def _coloured(tiles: NDArray[np.uint8], columns: int, filled: bool) -> bytes:
    """Draw labels in their colours with outlines, or white outlines alone, on nothing.

    What is not known is filled in both.
    """
    from scipy import ndimage

    unknown, tiles = tiles == IGNORED, np.where(tiles == IGNORED, 0, tiles)

    near = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool)  # within a slice
    highest = ndimage.maximum_filter(tiles, footprint=near)
    edge = (highest != ndimage.minimum_filter(tiles, footprint=near)) & (tiles > 0)
    count = len(LABELS)
    colour = np.where(tiles > 0, (tiles - 1) % count + 1, 0)
    drawn = np.where(edge, colour + count, colour) if filled else np.where(edge, 2 * count + 1, 0)
    drawn = np.where(unknown, 2 * count + 2, drawn)
    picture = Image.fromarray(_sheet(drawn.astype(np.uint8), columns))
    names = ("#000000", *LABELS, *LABELS, "#ffffff", UNKNOWN)
    colours = [ImageColor.getrgb(name) for name in names]
    picture.putpalette([part for rgb in colours for part in rgb])
    opacity = bytes([0, *[FILL] * count, *[EDGE] * count, EDGE, FILL])
    return _encoded(picture, "PNG", transparency=opacity)


def _encoded(picture: Image.Image, kind: str, **how: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, optimize=True, **how)
    return out.getvalue()


def data_uri(picture: bytes) -> str:
    """Return a PNG, a GIF or a JPEG as an address that holds it."""
    kinds = {b"\x89PNG": "png", b"GIF8": "gif"}
    kind = kinds.get(picture[:4], "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def cases_html(cases: Sequence[Case]) -> str:
    """Return the cards of cases, under the headings of their groups."""
    parts = []
    for group in dict.fromkeys(case.group for case in cases):
        cards = [_card(case, i) for i, case in enumerate(cases) if case.group == group]
        parts += [f"<h3>{escape(group)}</h3>", '<div class="cases">', *cards, "</div>"]
    return "\n".join(parts)


def _card(case: Case, number: int) -> str:
    made, name = case.sheets, escape(case.name)
    rows = -(-len(made.numbers) // made.columns)
    down, across = divmod(made.start, made.columns)
    x, y = (100 * at / max(1, count - 1) for at, count in ((across, made.columns), (down, rows)))
    layers = [("", made.image)]
    for i, picture in enumerate(made.answers.values()):
        layers.append((f' data-kind="answer" data-number="{i}"', picture))
    if made.truth is not None:
        layers.append((' data-kind="truth"', made.truth))
    size = f"{100 * made.columns}% {100 * rows}%"
    places = ",".join(str(place + 1) for place in made.numbers)
    several = len(made.numbers) > 1
    label = f"{name}, slice {made.numbers[made.start] + 1} of {made.depth}" if several else name
    lines = [
        '<article class="case">',
        f"<h4>{name}</h4>",
        f"<p>{escape(case.said)}</p>",
        f'<div class="slice" role="img" aria-label="{label}" data-name="{name}" '
        f'data-numbers="{places}" data-depth="{made.depth}" data-columns="{made.columns}" '
        f'style="aspect-ratio:{made.ratio:.4f};--x:{x:.4f}%;--y:{y:.4f}%">',
        *(
            f'<div class="layer"{kind} '
            f'style="background-image:url({data_uri(picture)});background-size:{size}"></div>'
            for kind, picture in layers
        ),
        "</div>",
    ]
    if several:
        lines += [
            f'<div class="slide"><label for="slice-{number}">Slice</label>'
            f'<input type="range" id="slice-{number}" min="0" max="{len(made.numbers) - 1}" '
            f'value="{made.start}"><output for="slice-{number}">'
            f"{made.numbers[made.start] + 1} of {made.depth}</output></div>",
        ]
    lines += _choices(case)
    if case.rows:
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in case.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in case.rows
        )
        lines.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="Scores of {name}"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    return "\n".join([*lines, "</article>"])


def _choices(case: Case) -> list[str]:
    """Return the switches of the masks, and what their colours mean."""
    made, lines = case.sheets, []
    if made.answers:
        lines.append(_switch("answer", "prediction"))
    if len(made.answers) > 1:
        options = "".join(
            f'<option value="{i}">{escape(name)}</option>' for i, name in enumerate(made.answers)
        )
        lines.append(
            f'<label>of <select aria-label="Whose prediction of {escape(case.name)}">'
            f"{options}</select></label>"
        )
    if made.truth is not None:
        lines.append(_switch("truth", '<span class="swatch line"></span>truth'))
    if not lines:
        return []
    legend = f'<fieldset class="choices" aria-label="Masks of {escape(case.name)}">'
    named = [
        (colour_of(label), case.classes[label] if label < len(case.classes) else str(label))
        for label in made.seen
    ]
    named += [(UNKNOWN, NOT_KNOWN)] if made.unknown else []
    keys = [
        f'<span><span class="swatch" style="background:{colour}"></span>{escape(name)}</span>'
        for colour, name in named
    ]
    return [legend, *lines, "</fieldset>", f'<div class="key">{"".join(keys)}</div>']


def _switch(kind: str, text: str) -> str:
    return f'<label><input type="checkbox" value="{kind}" checked> {text}</label>'
