"""The card that goes with shared weights: licence, data, metrics and limits."""

import math
from collections.abc import Mapping
from numbers import Real
from types import ModuleType

from torch import nn

from crossd import __version__
from crossd.conversion.views import traits
from crossd.errors import InputError
from crossd.tasks import with_units
from crossd.weights.weights_file import WeightsConfig


def model_card(
    config: WeightsConfig,
    *,
    licence: str,
    data: str,
    metrics: Mapping[str, float],
    limits: str,
    source: str = "path/to/this/folder",
    net: nn.Module | None = None,
) -> str:
    """Write the model card of a network in Markdown, with the hub's header.

    Args:
        config: The network's configuration.
        licence: See `crossd.save_pretrained`, also for `data`, `metrics` and `limits`.
        data: See there.
        metrics: See there.
        limits: See there.
        source: What is to be given to `crossd.from_pretrained`.
        net: The network, whose rank, folding and depth are told; None leaves them out.

    Returns:
        The text of its README.md.

    Raises:
        InputError: "... is empty" for a text or metrics that say nothing.
    """
    for name, value in {"licence": licence, "data": data, "limits": limits}.items():
        if not value.strip():
            raise InputError(f"{name} is empty: a model card says it")
    if not metrics:
        raise InputError("metrics is empty: a model card says how good the network is")
    for measure, number in metrics.items():
        if not isinstance(number, Real) or not math.isfinite(number):
            raise InputError(f"metrics: {measure} is {number!r}; expected a finite number")
    head = hub_library().ModelCardData(
        license=licence,
        library_name="crossd",
        pipeline_tag=_PIPELINES.get(config.task),
        tags=["crossd", "medical", "3d"],
        metrics=list(metrics),
    )
    then = ""
    if config.number_std:
        then = "\nnet.config.scale.restored(net(x))  # the numbers, in their units"
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in metrics.items())
    own = {} if net is None else traits(net)
    given = f'"{source}"' + (", model=..." if config.model == "custom" else "")
    takes, shapes = _FORMS[config.form]
    spacing = "not recorded"
    if config.spacing is not None:
        spacing = " x ".join(f"{length:g}" for length in config.spacing) + " mm (z, y, x)"
    return _CARD.format(
        head=head.to_yaml(),
        given=given,
        model=config.model,
        task=config.task,
        takes=takes.format(mode=config.kernel_mode),
        shapes=shapes,
        channels=config.in_channels,
        then=then,
        classes=", ".join(with_units(config.classes, config.units)),
        size=" x ".join(map(str, config.size)) or "not recorded",
        spacing=spacing,
        mean=config.mean,
        std=config.std,
        traits="".join(f"| {what} | {told} |\n" for what, told in own.items()),
        version=config.version or __version__,
        data=data.strip(),
        rows=rows,
        limits=limits.strip(),
        licence=licence,
    )


def hub_library() -> ModuleType:
    """Import huggingface_hub, which writes the header of a card."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            "hubs and model cards need huggingface_hub: pip install 'crossd[all]'"
        ) from error
    return huggingface_hub


_PIPELINES = {
    "classification": "image-classification",
    "multilabel": "image-classification",
    "segmentation": "image-segmentation",
}
"""What the hub calls what a network does; of numbers it has no word."""

_IMAGES, _VOLUMES = "(N, C, H, W)", "(N, C, D, H, W)"
_FORMS = {
    "cross": (
        "images and volumes, with one set of 3D kernels (mode {mode})",
        f"{_IMAGES} or {_VOLUMES}",
    ),
    "acs": ("images and volumes (ACS convolutions)", f"{_IMAGES} or {_VOLUMES}"),
    "cycle": ("images and volumes (planes in turn)", f"{_IMAGES} or {_VOLUMES}"),
    "2d": ("images", _IMAGES),
    "3d": ("volumes", _VOLUMES),
}
"""What networks of each form take: in words, and as shapes."""

_CARD = """---
{head}
---

# {model}

A network for {task} that takes {takes}, made with crossd {version}.

| | |
|:--|:--|
| classes | {classes} |
| input channels | {channels} |
| size in training | {size} |
| spacing | {spacing} |
| normalisation | minus {mean:g}, divided by {std:g} |
{traits}
## Use

```python
import crossd

net = crossd.from_pretrained({given})
net(x)  # {shapes}, normalised as above{then}
```

## Data

{data}

## Metrics

| metric | value |
|:--|--:|
{rows}

## Limits

{limits}

Not a medical device. It has not been approved for any clinical use.

## Licence

{licence}
"""
