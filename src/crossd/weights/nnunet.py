"""Checkpoints that nnU-Net trains from, and predicts with."""

from pathlib import Path

import torch
from torch import nn

from crossd.conversion import registry
from crossd.conversion.plain import to_3d
from crossd.errors import InputError
from crossd.utils.atomic_files import atomic
from crossd.weights.weights_file import WeightsConfig, load, require_config

TRAINER = "nnUNetTrainer"


def write_checkpoint(weights: str | Path, out: str | Path) -> str:
    """Write the network of a weights file as a checkpoint of nnU-Net.

    ``nnUNetv2_train ... -pretrained_weights FILE`` takes all of it but the segmentation layers, and
    ``nnUNetv2_predict`` finds it as ``fold_0/checkpoint_final.pth`` in a folder with the plans and
    the ``dataset.json``.

    Args:
        weights: A weights file of crossd whose model is ``nnunet:...``.
        out: The file to write, by custom ending in ``.pth``.

    Returns:
        What was written, in a sentence.

    Raises:
        InputError: When the network is not of nnU-Net, or was made a 2D one.
    """
    net = load(weights)
    config = require_config(net)
    if not config.model.startswith("nnunet:"):
        raise InputError(
            f"{weights} holds the network {config.model}, which is none of nnU-Net: train one by "
            "crossd pretrain --model nnunet:PLANS.json"
        )
    if config.form not in ("cross", "3d"):
        raise InputError(f"{weights} holds a {config.form} network, expected Cross-D or 3d")
    state = _solid(net, config).state_dict()
    own = registry.build(config.model, config.task, config.in_channels, len(config.classes))
    wanted = own.state_dict()
    differing = [
        name
        for name in {**wanted, **state}
        if name not in state or name not in wanted or state[name].shape != wanted[name].shape
    ]
    if differing:
        raise InputError(
            f"{weights}: {len(differing)} tensors are not those of nnU-Net's network, the first is "
            f"{differing[0]!r}; convert it with the version of crossd that wrote it"
        )
    name = registry.options_of(config.model).get("configuration", "3d_fullres")
    content = {
        "network_weights": {name: state[name].detach().cpu().contiguous() for name in wanted},
        "trainer_name": TRAINER,
        "init_args": {"configuration": name},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "current_epoch": 0,
    }
    with atomic(out) as temporary:
        torch.save(content, temporary)
    layers = sum(".seg_layers." in name for name in wanted)
    return (
        f"{len(wanted)} tensors for nnU-Net's {name}, of which "
        f"{layers} are of segmentation layers that -pretrained_weights leaves out"
    )


def _solid(net: nn.Module, config: WeightsConfig) -> nn.Module:
    return to_3d(net) if config.form == "cross" else net
