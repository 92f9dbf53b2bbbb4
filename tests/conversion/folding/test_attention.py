"""Attention over whole volumes, against attention over one long row of tokens."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from helpers import close_relative, keeps_the_law, settle, some
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

import crossd
from crossd import InputError

convert: Callable[..., Any] = functools.partial(crossd.convert, attention="volume")


class Attends(nn.Module):
    """Attends to the pixels of a map, by a mask of one of several shapes."""

    def __init__(self, mask: str = "", heads: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 12, 1)
        self.mask, self.heads = mask, heads
        self.bias = nn.Parameter(torch.randn(heads, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.conv(x).flatten(2).transpose(1, 2).chunk(3, 2)  # (n, l, c)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        mask = {
            "": None,
            "relative": self.bias,
            "batch": self.bias[None].expand(len(x), -1, -1, -1),
            "keys": (x[:, :1].flatten(2) > 0)[:, None],
        }[self.mask]
        y = F.scaled_dot_product_attention(q, k, v, mask)
        return y.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])


def reference(net: Any, x: Tensor, mask: str) -> Tensor:
    """The same on a volume, all of whose voxels are one row."""
    d, h, w = x.shape[2:]
    rows = net.conv.to_3d()(x).flatten(2).transpose(1, 2).chunk(3, 2)
    q, k, v = (t.unflatten(2, (net.heads, -1)).transpose(1, 2) for t in rows)
    own = None
    if mask in ("relative", "batch"):
        own = net.bias.repeat(1, d, d)
    elif mask == "keys":
        own = (x[:, :1].flatten(2) > 0)[:, None]
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if own is not None:
        scores = scores + (own if own.is_floating_point() else (~own) * -1e9)
    y = scores.softmax(-1) @ v
    return y.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (d, h, w))


@pytest.mark.parametrize("mask", ["", "relative", "batch", "keys"])
def test_all_slices_are_one_row_of_tokens(mask: str) -> None:
    net = convert(Attends(mask), check=False).eval()
    x = torch.randn(2, 4, 5, 3, 4)
    close_relative(net(x), reference(net, x, mask), 1e-5)
    if mask != "keys":
        keeps_the_law(net, torch.randn(2, 4, 3, 4), 0, 7)
    within = convert(Attends(mask), check=False, attention="slice").eval()
    within.load_state_dict(net.state_dict(), strict=False)
    each = torch.stack([within(part) for part in x.unbind(2)], 2)
    close_relative(within(x), each, 1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"bias": False}, {"batch_first": True}, {"kdim": 6, "vdim": 5}]
)
@pytest.mark.parametrize("masks", ["", "attn", "padding"])
def test_multi_head_attention_of_torch(settings: dict[str, Any], masks: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 1)
            self.attention = nn.MultiheadAttention(8, 2, **settings)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.conv(x).flatten(2).transpose(1, 2)
            key = tokens[..., : settings.get("kdim", 8)]
            value = tokens[..., : settings.get("vdim", 8)]
            more: dict[str, Any] = {"need_weights": False}
            if masks == "attn":
                more["attn_mask"] = torch.arange(12.0)[:, None] / (1 + torch.arange(12.0))
            if masks == "padding":
                more["key_padding_mask"] = x[:, 0].flatten(1) > 1
            if not settings.get("batch_first"):
                tokens, key, value = (t.transpose(0, 1) for t in (tokens, key, value))
            y, _ = self.attention(tokens, key, value, **more)
            y = y if settings.get("batch_first") else y.transpose(0, 1)
            return y.transpose(1, 2).unflatten(2, x.shape[2:])

    source = settle(Net())
    images = torch.randn(2, 4, 3, 4)
    net = convert(source, example=images)
    assert "1 of 1 attentions see the tokens of all slices" in net.conversion.checks
    with torch.no_grad():
        close_relative(net.eval()(images), source(images), 1e-5)
        keeps_the_law(net, images, 0, 5)
        volumes = torch.randn(1, 4, 3, 3, 4)
        assert not torch.allclose(net(volumes)[:, :, 0], net(volumes[:, :, :1])[:, :, 0], atol=1e-3)


@pytest.mark.parametrize("how", ["module", "function", "broadcast"])
def test_learnt_queries_see_the_tokens_of_all_slices(how: str) -> None:
    class Net(nn.Module):
        """Pools tokens by queries of its own, as detectors do."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.queries = nn.Conv2d(4, 8, 1), nn.Parameter(5 * torch.randn(1, 3, 8))
            self.attention = nn.MultiheadAttention(8, 1, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            tokens = 5 * self.conv(x).flatten(2).transpose(1, 2)
            queries = self.queries.expand(len(tokens), -1, -1)
            if how == "module":
                return self.attention(queries, tokens, tokens, need_weights=False)[0].mean(1)
            queries = self.queries if how == "broadcast" else queries
            heads = tokens[:, None]
            return F.scaled_dot_product_attention(queries[:, None], heads, heads)

    net = convert(Net(), depth_position=0).eval()
    assert "1 of 1 attentions see the tokens of all slices" in net.conversion.checks
    x = torch.randn(2, 4, 5, 3, 4)
    with torch.no_grad():
        whole = net(x)
        tokens = 5 * net.conv.to_3d()(x).flatten(2).transpose(1, 2)
        queries = net.queries.expand(2, -1, -1)
        if how == "module":
            twin = nn.MultiheadAttention(8, 1, batch_first=True).eval()
            twin.load_state_dict(net.attention.state_dict())
            close_relative(whole, twin(queries, tokens, tokens)[0].mean(1), 1e-5)
        else:
            expected = F.scaled_dot_product_attention(queries, tokens, tokens)
            close_relative(whole[:, 0], expected[:, None].expand_as(whole[:, 0]), 1e-5)


def test_attention_that_is_asked_for_its_weights_is_within_slices() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.attention = nn.Conv2d(4, 8, 1), nn.MultiheadAttention(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.conv(x).flatten(2).permute(2, 0, 1)
            y, weights = self.attention(tokens, tokens, tokens)
            return y.mean(0) * weights.mean()

    net = convert(Net(), example=torch.randn(2, 4, 4, 6))
    assert (
        "0 of 1 attentions see the tokens of all slices; the others work within slices"
        in net.conversion.checks
    )


TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "deit3_small_patch16_224": {"img_size": 32, "depth": 2},
    "beit_base_patch16_224": {"img_size": 32, "depth": 2},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 2},
    "vit_small_patch14_dinov2": {"img_size": 28, "depth": 2},
    "vit_small_patch16_dinov3": {"img_size": 32, "depth": 2},
    "vit_relpos_small_patch16_224": {"img_size": 32, "depth": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (2, 2)},
    "swinv2_tiny_window8_256": {"img_size": 64, "depths": (2, 2)},
}


QUICK = ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")


@pytest.mark.parametrize("name", some(TIMM, QUICK))
def test_transformers_of_timm(name: str) -> None:
    torch.manual_seed(0)
    source = settle(timm.create_model(name, num_classes=3, **TIMM[name]))
    net = convert(source)
    said = "\n".join(net.conversion.checks)
    count = 4 if "swin" in name else 2
    assert f"{count} of {count} attentions see the tokens of all slices" in said
    images = torch.randn(2, 3, TIMM[name]["img_size"], TIMM[name]["img_size"])
    with torch.no_grad():
        close_relative(net.eval()(images), source(images), 1e-4)
        keeps_the_law(net, images, 0, 32 if "14" not in name else 28)
        volumes = torch.randn(1, 3, 32 if "14" not in name else 28, *images.shape[2:])
        answer = net(volumes)
        net.get_submodule(net.crossd_recipe["decided"]["position"]).depth_position.normal_()
        assert not torch.allclose(net(volumes), answer, atol=1e-4)
        close_relative(net(images), source(images), 1e-4)  # images have no depth
    net.train()(volumes).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_slices_may_be_shuffled_without_an_embedding_of_depth() -> None:
    make = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, depth=2)
    net = settle(convert(make, depth_stride=1))
    x = torch.randn(1, 3, 4, 32, 32)
    order = [2, 0, 3, 1]
    with torch.no_grad():
        net.patch_embed.proj.depth_position.zero_()
        close_relative(net(x[:, :, order]), net(x), 1e-5)
        net.patch_embed.proj.depth_position.normal_()
        assert not torch.allclose(net(x[:, :, order]), net(x), atol=1e-3)
    assert "depth_position" not in str(list(convert(make, depth_position=0).state_dict()))


TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 24, 48, num_classes=3),
    "swin": lambda: torchvision.models.SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=3
    ),
    "swin v2": lambda: torchvision.models.SwinTransformer(
        [4, 4],
        24,
        [1, 1],
        [2, 4],
        [4, 4],
        num_classes=3,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    ),
    "maxvit": lambda: torchvision.models.MaxVit(
        (64, 64), 16, 8, [16, 32], [1, 1], 8, 0.0, num_classes=3
    ),
}


@pytest.mark.parametrize("name", some(TORCHVISION, ["vit", "swin"]))
def test_transformers_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    source = settle(TORCHVISION[name]())
    side = {"vit": 32, "maxvit": 64}.get(name, 40)
    net = convert(source, example=torch.randn(2, 3, side, side))
    line = next(line for line in net.conversion.checks if "attentions" in line)
    first, _, second, *_ = line.split()
    assert first == second and int(first) >= 2
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        close_relative(net.eval()(images), source(images), 1e-4)
        keeps_the_law(net, images, 0, 32)
    assert net.train()(torch.randn(2, 3, 32, side, side)).shape == (2, 3)


def test_the_way_that_was_asked_for_is_taken_or_refused() -> None:
    class Mixed(nn.Module):
        """Attends across the batch, which all slices are: across volumes, too."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(2).permute(2, 0, 1)[:, None]  # (l, 1, n, c)
            y = F.scaled_dot_product_attention(y, y, y)[:, 0].permute(1, 2, 0)
            return y.unflatten(2, x.shape[2:])

    crossd.convert(Mixed())  # within slices it is as lawful as it is on images
    small: Any = {"num_classes": 3, "img_size": 32, "depth": 1}
    for kind in ("volume", "slice"):
        net = convert(timm.create_model("vit_tiny_patch16_224", **small), attention=kind)
        assert net.crossd_state.folding.attention == kind
        count = 1 if kind == "volume" else 0
        assert f"{count} of 1 attentions see" in "\n".join(net.conversion.checks)
    vit = timm.create_model("vit_tiny_patch16_224", **small)
    default: Any = crossd.convert(vit)
    assert default.crossd_state.folding.attention == "slice"
    with pytest.raises(InputError, match=r"attention .*must be one of volume, slice"):
        convert(timm.create_model("vit_tiny_patch16_224", **small), attention="depth")
