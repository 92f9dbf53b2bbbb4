"""Labelled brains without end from the MNI152 atlas that nilearn ships."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossd.data.preprocessing.volume_dataset import TensorVolumes
from crossd.data.quality.facts import CLIP
from crossd.data.shapes import fit, round_up
from crossd.data.source import Request, Source
from crossd.errors import InputError

CLASSES = ("background", "grey", "white", "CSF")
DEFAULT_SPACING = 4
SPACINGS = range(2, 9)
TRAIN, VAL, TEST = 24, 4, 8
REAL = "MNI152 T1 average"
"""What tables call the one real volume."""

INSIDE = 0.1
"""Intensity of the T1 average, which is 0 outside the brain and up to 1, that bounds the brain."""

SMOOTH = 5
"""Nodes an axis of a random smooth field."""

ROTATION, ZOOM, SHIFT, WARP = 0.1, 0.06, 3.0, 3.0
"""Standard deviations of the deformation: angle [rad], factor, shift [mm], local shift [mm]."""

BIAS, NOISE, BLUR, GAP = 0.25, 0.06, 0.6, 0.15
"""Bias field [log], noise, blur [voxels] (upper ends), and least contrast between tissues."""


def open_brain(request: Request) -> Source:
    """Open ``brain`` or ``brain:MM``: synthetic volumes, and a real one among those to test on.

    The grey- and white-matter maps of MNI152 are deformed, each tissue gets a random intensity,
    and a bias field, blur and noise are added. The idea is SynthSeg's (Billot et al., Medical
    Image Analysis 86, 2023). The last test volume is the real T1 average with the labels of the
    maps; it is never trained on.

    Voxels have 4 mm, or MM, a whole number. Images are in [0, 1]; there are 24, 4 and 9 volumes, of
    the box of the brain where no size is asked for. The seed decides on everything that is drawn.

    Raises:
        InputError: When the spacing is not a whole number within 2 to 8.
    """
    spec, seed = request.name, request.seed
    _, _, suffix = spec.partition(":")
    if spec != "brain" and suffix not in {str(mm) for mm in SPACINGS}:
        raise InputError(
            f"{spec}: expected brain or brain:MM with {SPACINGS[0]} to {SPACINGS[-1]} whole mm"
        )
    spacing = int(suffix) if suffix else DEFAULT_SPACING
    template, maps = _atlas(spacing)
    shape = request.shape(3, template.shape)
    drawn = [
        [synthesise(maps, spacing, (seed, part, index)) for index in range(count)]
        for part, count in enumerate((TRAIN, VAL, TEST))
    ]
    drawn[2].append((scale(template)[None], maps.argmax(0).to(torch.uint8)))
    names = [f"synthetic {number}" for number in range(1, TEST + 1)] + [REAL]
    train, val, test = (
        TensorVolumes([image for image, _ in pairs], [mask for _, mask in pairs], shape, own)
        for pairs, own in zip(drawn, ((), (), names), strict=True)
    )
    mm = float(spacing)
    return Source(
        spec, 3, "segmentation", 1, CLASSES, shape, train, val, test, spacing=(mm, mm, mm)
    )


def _atlas(spacing: int) -> tuple[Tensor, Tensor]:
    """Load the T1 average ``(D, H, W)`` and the probabilities of the classes ``(4, D, H, W)``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn announces its changes to all who import it
        from nilearn import datasets

        t1, grey, white = (
            torch.from_numpy(load(resolution=spacing).get_fdata(dtype=np.float32).T.copy())
            for load in (
                datasets.load_mni152_template,
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
            )
        )  # (x, y, z) -> (z, y, x)
    inside = (t1 > INSIDE).float()  # resampling leaves tiny values outside
    t1 = t1 * inside
    grey, white = grey * inside, white * inside
    maps = torch.stack((1 - inside, grey, white, (inside - grey - white).clamp(min=0)))
    where = inside.nonzero()
    box = [slice(int(a), int(b) + 1) for a, b in zip(where.amin(0), where.amax(0), strict=True)]
    size = round_up([side.stop - side.start for side in box])
    maps = fit(maps[:, *box], size)
    maps[0] = 1 - maps[1:].sum(0)  # what was padded is background
    return fit(t1[*box], size), maps


def synthesise(maps: Tensor, spacing: float, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Draw a brain.

    Args:
        maps: Probabilities of background, grey matter, white matter and CSF, ``(4, D, H, W)``.
        spacing: Size of a voxel [mm].
        seed: Numbers that decide on it wholly.

    Returns:
        The image in [0, 1], ``(1, D, H, W)``, and the mask, uint8, ``(D, H, W)``.

    Example:
        >>> maps = torch.rand(4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> image, mask = synthesise(maps, 4.0, (0, 0))
        >>> image.shape, mask.dtype, torch.equal(image, synthesise(maps, 4.0, (0, 0))[0])
        (torch.Size([1, 8, 8, 8]), torch.uint8, True)
    """
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    shape = tuple(maps.shape[1:])
    warped = F.grid_sample(maps[None], _grid(shape, spacing, rng), align_corners=False)[0]
    mask = warped.argmax(0)
    tissues = rng.uniform(0.1, 1, 3)
    while np.diff(np.sort(tissues)).min() < GAP:
        tissues = rng.uniform(0.1, 1, 3)
    image = torch.einsum("t,tzyx->zyx", torch.tensor(tissues, dtype=torch.float32), warped[1:])
    blurred = gaussian_filter(image.numpy(), rng.uniform(0.1, BLUR), radius=2, mode="constant")
    image = torch.from_numpy(blurred) * (BIAS * _smooth(1, shape, rng)[0]).exp()
    noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    image = (image + rng.uniform(0.01, NOISE) * noise).clamp(min=0)
    # The real image has nothing outside the brain either.
    return scale(image * (mask > 0))[None], mask.to(torch.uint8)


def scale(image: Tensor) -> Tensor:
    """Clip to the percentiles 0.5 to 99.5 and scale to [0, 1]; zeros where all values are equal.

    Example:
        >>> scale(torch.tensor([0.0, 5.0, 10.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    low, high = np.percentile(image.numpy(), CLIP)
    if not high > low:
        return torch.zeros_like(image)
    return ((image - float(low)) / float(high - low)).clamp(0, 1)


def _grid(shape: tuple[int, ...], spacing: float, rng: np.random.Generator) -> Tensor:
    """Draw where every voxel comes from: an affine map plus a smooth field, for grid_sample."""
    half = torch.tensor(shape[::-1]) / 2  # grid_sample's coordinates are (x, y, z) over this
    turn = torch.zeros(3, 3)
    turn[[0, 0, 1], [1, 2, 2]] = torch.from_numpy(rng.normal(0, ROTATION, 3)).float()
    zoom = torch.from_numpy(1 + ZOOM * rng.standard_normal(3)).float()
    matrix = torch.linalg.matrix_exp(turn - turn.T) * zoom * half / half[:, None]
    shift = torch.from_numpy(rng.normal(0, SHIFT / spacing, 3)).float() / half
    grid = F.affine_grid(
        torch.cat((matrix, shift[:, None]), 1)[None], [1, 1, *shape], align_corners=False
    )
    local = _smooth(3, shape, rng) * (WARP / spacing) / half[:, None, None, None]
    return grid + local.movedim(0, -1)


def _smooth(count: int, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Draw smooth fields, ``(count, D, H, W)``, normal at their nodes."""
    nodes = torch.from_numpy(rng.standard_normal((1, count, *[SMOOTH] * 3), dtype=np.float32))
    return F.interpolate(nodes, size=shape, mode="trilinear", align_corners=True)[0]
