"""PlaneCycle against its definition, written here slice by slice; and what it refuses."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import close_relative, randomize, some
from torch import Tensor, nn

import crossd
from crossd.conversion.cycle import OF_BLOCKS, cycle
from crossd.errors import InputError
from crossd.nn.planar import PLANES

OPTIONS: dict[str, Any] = {"depth": 5, "num_classes": 3, "in_chans": 1, "dynamic_img_size": True}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch16_dinov3": {"global_pool": "avg"},
    "eva02_tiny_patch14_224": {"global_pool": "token"},
    "vit_small_patch14_reg4_dinov2": {"dynamic_img_pad": True},
    "vit_small_patch16_rope_mixed_224": {},
    "vit_base_patch16_siglip_224": {"embed_dim": 96, "num_heads": 3},
    "vit_base_patch16_xp_224": {"embed_dim": 96, "num_heads": 3},
}


def transformer(name: str) -> Any:
    torch.manual_seed(0)
    net = timm.create_model(name, **OPTIONS, **TRANSFORMERS[name]).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def pooled(tokens: Tensor, count: int) -> Tensor:
    """Average rows ``(P, g, C)``: the q-th of Q is of those from floor(qP/Q) to ceil((q+1)P/Q)."""
    rows = len(tokens)
    ends = [(q * rows // count, -(-(q + 1) * rows // count)) for q in range(count)]
    return torch.stack([tokens[first:last].mean(0) for first, last in ends])


def one_by_one(net: Any, volume: Tensor, order: tuple[str, ...]) -> Tensor:
    """Logits of one volume ``(C, D, H, W)`` as the paper says: block by block, slice by slice."""
    images = volume.movedim(1, 0)
    embedded = net._pos_embed(net.patch_embed(images))
    embedded = net.norm_pre(embedded[0] if isinstance(embedded, tuple) else embedded)
    count = net.num_prefix_tokens
    rows, columns = net.patch_embed.dynamic_feat_size(images.shape[2:])
    own, patches = embedded[:, :count], embedded[:, count:].unflatten(1, (rows, columns))
    for number, block in enumerate(net.blocks):
        axis = PLANES.index(order[number % len(order)])
        slices = patches.shape[axis]
        own = pooled(own, slices)
        given, answers = {}, []
        if getattr(net, "rope", None) is not None:
            rope = net.rope.get_embed(list(patches.select(axis, 0).shape[:2]))
            given = {"rope": rope[number] if net.rope_mixed else rope}
        for place in range(slices):
            flat = patches.select(axis, place)
            tokens = torch.cat([own[place], flat.flatten(0, 1)])
            told = block(tokens[None], **given)[0]
            answers.append((told[:count], told[count:].unflatten(0, flat.shape[:2])))
        own = torch.stack([first for first, _ in answers])
        patches = torch.stack([rest for _, rest in answers], axis)
    tokens = torch.cat([own, patches.movedim(axis, 0).flatten(1, 2)], 1)
    return net.forward_head(net.norm(tokens)).mean(0)


@pytest.mark.parametrize("name", some(TRANSFORMERS, ["vit_small_patch16_dinov3"]))
def test_blocks_attend_as_the_paper_says(name: str) -> None:
    net = transformer(name)
    volumes = torch.randn(2, 1, 3, *((42, 56) if "14" in name else (32, 64)))
    turned: Any = cycle(net)
    with torch.no_grad():
        expected = torch.stack([one_by_one(net, volume, OF_BLOCKS) for volume in volumes])
        close_relative(turned(volumes), expected, 1e-5)
        torch.testing.assert_close(turned(volumes[:, :, 0]), net(volumes[:, :, 0]))
        features = turned.forward_features(volumes)
        torch.testing.assert_close(turned.forward_head(features), turned(volumes))
    torch.testing.assert_close(turned.state_dict(), net.state_dict())


@pytest.mark.parametrize("order", [("HW",), ("DW", "HW"), ("HW", "DW", "DH")])
def test_planes_may_take_turns_in_another_order(order: tuple[str, ...]) -> None:
    net = transformer("vit_small_patch16_dinov3")
    volume = torch.randn(1, 1, 3, 32, 64)
    with torch.no_grad():
        answer = cycle(net, order)(volume)
        close_relative(answer, one_by_one(net, volume[0], order)[None], 1e-5)
        if order == ("HW",):  # every slice by itself
            close_relative(answer, net(volume[0].movedim(1, 0)).mean(0, keepdim=True), 1e-5)


def test_a_transformer_that_is_cycled_trains_copies_and_is_pickled() -> None:
    net: Any = cycle(transformer("vit_small_patch16_dinov3")).train()
    x = torch.randn(2, 1, 3, 32, 48)
    for one in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(one.eval()(x), net.eval()(x))
    plain = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    assert all(part.abs().sum() > 0 for part in plain)
    net.set_grad_checkpointing()
    again = torch.autograd.grad(net.train()(x).square().sum(), list(net.parameters()))
    torch.testing.assert_close(again, plain)


def test_kernels_of_convolutions_take_turns() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 6, (1, 3), padding=(0, 1)),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 2, 3, padding=1),
    )
    randomize(net)
    net.eval()
    turned: Any = cycle(net)
    assert [turned[i].plane for i in (0, 3, 4, 5, 7)] == ["HW", "HW", "DW", "DH", "HW"]
    x = torch.randn(2, 1, 6, 8, 10)
    y = x
    for layer, axis in zip(net, (0, 0, 0, 0, 1, 2, 0, 0), strict=True):
        if isinstance(layer, nn.MaxPool2d):
            y = nn.functional.max_pool3d(y, 2)
        else:
            y = torch.stack([layer(part) for part in y.unbind(2 + axis)], 2 + axis)
    with torch.no_grad():
        close_relative(turned(x), y, 1e-5)
        close_relative(crossd.to_3d(turned)(x), y, 1e-5)
        close_relative(turned(x[:, :, 0]), net(x[:, :, 0]), 1e-5)
    torch.testing.assert_close(turned.state_dict(), net.state_dict())
    assert set(turned.conversion.counts()) == {"copied"}


@pytest.mark.parametrize(
    "name", some(["resnet18", "convnext_atto", "efficientnet_b0"], ["resnet18"])
)
def test_networks_of_convolutions_keep_what_they_say_of_images(name: str) -> None:
    net = timm.create_model(name, num_classes=3, in_chans=1).eval()
    turned: Any = cycle(net)
    x = torch.randn(2, 1, 32, 64, 96)
    with torch.no_grad():
        assert turned(x).shape == (2, 3)
        close_relative(turned(x[:, :, 0]), net(x[:, :, 0]), 1e-4)


@pytest.mark.parametrize("order", [None, ("DW", "HW", "DH")])
def test_a_file_brings_it_back(order: Any, tmp_path: Path) -> None:
    config = crossd.WeightsConfig("resnet18", "classification", 1, ("a", "b"), form="2d")
    net: Any = cycle(config.build(), order).eval()
    crossd.save(net, tmp_path / "net.safetensors", config)
    again: Any = crossd.load(tmp_path / "net.safetensors").eval()
    x = torch.randn(1, 1, 16, 24, 32)
    torch.testing.assert_close(again(x), net(x))
    assert again.layer1[0].conv1.plane == ("DW" if order is None else "HW")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin_tiny_patch4_window7_224", {}),
        ("mixer_s32_224", {}),
        ("beit_base_patch16_224", {"depth": 1}),
    ],
)
def test_other_networks_are_refused_with_those_that_it_knows(name: str, options: Any) -> None:
    with pytest.raises(InputError, match=r"cannot cycle .*: cycle knows the blocks of timm's ViT"):
        cycle(timm.create_model(name, **options))


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(InputError, match=r"create it with dynamic_img_size=True"):
        cycle(timm.create_model("eva02_tiny_patch14_224", depth=1))
    with pytest.raises(InputError, match=r"order \(=\('WH',\)\) must list some of HW, DW, DH"):
        cycle(transformer("vit_tiny_patch16_224"), ("WH",))
    with pytest.raises(InputError, match="it is a 3D network"):
        cycle(nn.Sequential(nn.Conv3d(1, 1, 3)))
    with pytest.raises(InputError, match=r"cycle has no StdConv2d"):
        cycle(timm.create_model("resnetv2_50x1_bit"))
    net = timm.create_model("vit_tiny_patch16_224", depth=2, patch_drop_rate=0.5, in_chans=1)
    with pytest.raises(InputError, match=r"a block is given 98 patches a slice, expected 14 x 14"):
        cycle(net).train()(torch.randn(1, 1, 2, 224, 224))
