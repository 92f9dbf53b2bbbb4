"""Attention over volumes: the tokens of all slices attend to each other.

In a volume of repeated slices every token, class and register tokens too, is there equally often,
so that a softmax over all of them gives what the softmax over the image's tokens gives: the
consistency law holds exactly. Masks and relative positions are repeated along depth.

What is replaced is `torch.nn.functional.scaled_dot_product_attention`. timm's modules are told to
use it; for modules of other libraries that multiply and normalise by themselves the same is written
here in its terms, which the check of every conversion holds against their own code.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossd.conversion.folding.modules import FORMS
from crossd.conversion.folding.run import Function, Run
from crossd.conversion.folding.volumes import HANDLERS

ATTENTION = ("volume", "slice")
"""How far attention sees: all slices of a volume, or one."""


def _attend(
    run: Run,
    func: Function,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: object,
) -> Tensor:
    """Let queries of every slice meet keys of all slices, ``(N D m, ..., L, E)``."""
    marked = [d for d in map(run.slices, (query, key, value)) if d is not None]
    depth = marked[0] if marked else None
    if depth is None:
        return func(query, key, value, attn_mask, dropout_p, is_causal, **kwargs)
    batch = max(x.shape[0] for x in (query, key, value))
    if query.shape[0] == 1:  # learnt queries, the same for all
        query = query.expand(batch, *query.shape[1:])
    alike = key.shape[0] == value.shape[0] == batch == query.shape[0]
    if not alike or run.folding.attention == "slice" or is_causal:
        run.seen.flat_attentions += 1
        answer = func(query, key, value, attn_mask, dropout_p, is_causal, **kwargs)
        return run.mark(answer, depth)
    run.seen.attentions += 1
    run.seen.tokens_deep = max(depth, run.seen.tokens_deep)
    shape = (run.number, depth, batch // (run.number * depth))

    def gather(x: Tensor) -> Tensor:
        """Put the tokens of all slices into one row: (N D m, ..., L, E) -> (N m, ..., D L, E)."""
        return torch.unflatten(x, 0, shape).movedim(1, -3).flatten(-3, -2).flatten(0, 1)

    mask = None
    if attn_mask is not None:
        mask = _repeated(attn_mask, shape, batch if attn_mask.dim() == query.dim() else 0)
    answer = func(gather(query), gather(key), gather(value), mask, dropout_p, False, **kwargs)
    rows = torch.unflatten(answer, 0, (shape[0], shape[2])).unflatten(-2, (depth, -1))
    return run.mark(rows.movedim(-3, 1).flatten(0, 2), depth)


HANDLERS[F.scaled_dot_product_attention] = _attend


def _repeated(mask: Tensor, shape: tuple[int, int, int], batch: int) -> Tensor:
    """Repeat a mask along depth, for queries and for keys; what it says of keys is their slice's.

    Args:
        mask: Broadcasts to ``(N D m, ..., L, S)``.
        shape: N, D and m.
        batch: N D m where the mask may have as many rows.
    """
    depth = shape[1]
    if batch and mask.shape[0] == batch:
        keys = torch.unflatten(mask, 0, shape).movedim(1, -2)  # (n, m, ..., l, d, s)
        keys = keys.flatten(-2, -1).flatten(0, 1)
    else:
        keys = mask.repeat(*[1] * (mask.dim() - 1), depth)
    if keys.shape[-2] == 1:  # the same for all queries
        return keys
    return keys.repeat(*[1] * (keys.dim() - 2), depth, 1)


def _attend_in_heads(
    run: Run,
    func: Function,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    **kwargs: object,
) -> object:
    """What `torch.nn.MultiheadAttention` does, ``(L, N D, E)``; with weights, within slices."""
    named = dict(
        training=training,
        key_padding_mask=key_padding_mask,
        need_weights=need_weights,
        attn_mask=attn_mask,
        use_separate_proj_weight=use_separate_proj_weight,
        q_proj_weight=q_proj_weight,
        k_proj_weight=k_proj_weight,
        v_proj_weight=v_proj_weight,
        **kwargs,
    )
    tensors = [x.transpose(0, 1) for x in (query, key, value)]  # (n d, l, e)
    met = [d for d in map(run.depth_of, (query, key, value)) if d is not None]
    depth = met[0] if met else None  # queries may be learnt, and keys too
    whole = run.number * (depth or 0)
    batched = whole > 0 and query.dim() == 3 and query.shape[1] % whole == 0
    extra = (bias_k, bias_v, kwargs.get("static_k"), kwargs.get("static_v"))
    plain = add_zero_attn or need_weights or any(x is not None for x in extra)
    if depth is None or not batched or plain or run.folding.attention == "slice":
        run.seen.flat_attentions += batched
        return func(
            *(query, key, value, embed_dim_to_check, num_heads, in_proj_weight, in_proj_bias),
            *(bias_k, bias_v, add_zero_attn, dropout_p, out_proj_weight, out_proj_bias),
            **named,
        )
    if use_separate_proj_weight:
        weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        weights = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    projected = [F.linear(*one) for one in zip(tensors, weights, biases, strict=True)]
    heads = [
        run.mark(torch.unflatten(x, -1, (num_heads, -1)).transpose(1, 2), depth) for x in projected
    ]
    mask = _joint_mask(attn_mask, key_padding_mask, num_heads, heads[0].dtype)
    drop = dropout_p if training else 0.0
    q, k, v = heads
    mixed = _attend(run, F.scaled_dot_product_attention, q, k, v, mask, drop)
    answer = F.linear(mixed.transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
    return run.mark(answer.transpose(0, 1), depth), None


HANDLERS[F.multi_head_attention_forward] = _attend_in_heads


def _joint_mask(
    mask: Tensor | None, padding: Tensor | None, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """Join both masks of `torch.nn.MultiheadAttention` to one that is added to the scores."""
    joint: Tensor | None = None
    if mask is not None:
        joint = _added(mask, dtype)
        joint = torch.unflatten(joint, 0, (-1, heads)) if joint.dim() == 3 else joint
    if padding is not None:
        rows = _added(padding, dtype)[:, None, None]
        joint = rows if joint is None else joint + rows
    return joint


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


def _weigh(run: Run, func: Function, *args: Any, **kwargs: Any) -> Tensor:
    """Count a softmax over tokens that code takes by itself: it sees those of one slice."""
    x = args[0] if args else kwargs["input"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    last = dim in (-1, x.dim() - 1)
    if last and x.dim() > 2 and x.shape[-1] > 1 and run.slices(x) is not None:
        run.seen.flat_attentions += 1
    answer: Tensor = func(*args, **kwargs)
    return answer


HANDLERS.update(dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), _weigh))


# Modules that multiply and normalise by themselves


def form_of(*names: str) -> Callable[[Any], Any]:
    """Register what stands for the forward of modules on volumes, unless attention is in slices.

    Args:
        *names: Full names of their classes.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def form(run: Run, module: Any, method: Any, *args: object, **kwargs: object) -> Any:
            if not run.folds:
                return method(module, *args, **kwargs)
            if run.folding.attention == "slice":
                run.seen.flat_attentions += 1
                return method(module, *args, **kwargs)
            flat = run.seen.flat_attentions
            answer = function(module, *args, **kwargs)
            run.seen.flat_attentions = flat  # its own softmax sees all slices
            return answer

        FORMS.update(dict.fromkeys(names, form))
        return function

    return register


@form_of("timm.models.swin_transformer_v2.WindowAttention")
def _cosine_windows(self: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    windows, tokens, channels = x.shape
    bias = None
    if self.q_bias is not None:
        bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
    qkv = F.linear(x, self.qkv.weight, bias)
    q, k, v = qkv.reshape(windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    scale = torch.clamp(self.logit_scale, max=math.log(100.0)).exp()
    table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
    places = table[self.relative_position_index.view(-1)].view(tokens, tokens, -1)
    bias = 16 * torch.sigmoid(places.permute(2, 0, 1)).unsqueeze(0)
    if mask is not None:
        bias = _of_each_window(bias, mask, windows)
    drop = self.attn_drop.p if self.training else 0.0
    mixed = F.scaled_dot_product_attention(
        F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), v, bias, drop, scale=1.0
    )
    return self.proj_drop(self.proj(mixed.transpose(1, 2).reshape(windows, tokens, channels)))


def _of_each_window(bias: Tensor, mask: Tensor, windows: int) -> Tensor:
    """Add the mask of each window of an image ``(m, L, L)``, for all images."""
    both = bias + mask.unsqueeze(1)  # (m, heads, l, l)
    return both.repeat(windows // mask.shape[0], 1, 1, 1)


@form_of(
    "torchvision.models.swin_transformer.ShiftedWindowAttention",
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2",
)
def _shifted_windows(self: Any, x: Tensor) -> Tensor:
    batch, height, width, channels = x.shape
    (high, wide), shift = self.window_size, list(self.shift_size)
    x = F.pad(x, (0, 0, 0, -width % wide, 0, -height % high))
    rows, columns = x.shape[1] // high, x.shape[2] // wide
    shift = [0 if high >= x.shape[1] else shift[0], 0 if wide >= x.shape[2] else shift[1]]
    if any(shift):
        x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
    tokens = x.view(batch, rows, high, columns, wide, channels).transpose(2, 3)
    tokens = tokens.reshape(batch * rows * columns, high * wide, channels)
    cosine = hasattr(self, "logit_scale")
    bias = self.qkv.bias
    if cosine and bias is not None:
        bias = torch.cat([part * (i != 1) for i, part in enumerate(bias.chunk(3))])
    qkv = F.linear(tokens, self.qkv.weight, bias)
    qkv = qkv.reshape(*tokens.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    if cosine:
        logits = torch.clamp(self.logit_scale, max=math.log(100.0)).exp()
        q, k = F.normalize(q, dim=-1) * logits, F.normalize(k, dim=-1)
    places = self.get_relative_position_bias()
    if any(shift):
        apart = _apart(rows * high, columns * wide, (high, wide), shift, x)
        places = _of_each_window(places, apart, tokens.shape[0])
    drop = self.attention_dropout if self.training else 0.0
    scale = 1.0 if cosine else None
    mixed = F.scaled_dot_product_attention(q, k, v, places, drop, scale=scale)
    mixed = self.proj(mixed.transpose(1, 2).reshape(*tokens.shape))
    mixed = F.dropout(mixed, self.dropout, self.training)
    mixed = mixed.view(batch, rows, columns, high, wide, channels).transpose(2, 3)
    mixed = mixed.reshape(batch, rows * high, columns * wide, channels)
    if any(shift):
        mixed = torch.roll(mixed, (shift[0], shift[1]), (1, 2))
    return mixed[:, :height, :width, :].contiguous()


def _apart(height: int, width: int, window: Any, shift: Any, like: Tensor) -> Tensor:
    """Mask, ``(m, L, L)``, of tokens that lie in one window only because the image was rolled."""
    region = like.new_zeros(height, width)
    row = torch.arange(height, device=like.device)
    column = torch.arange(width, device=like.device)
    for places, size, move, step in (
        (row[:, None], height, (window[0], shift[0]), 3),
        (column[None], width, (window[1], shift[1]), 1),
    ):
        if move[1]:
            region = region + step * (places >= size - move[0]) + step * (places >= size - move[1])
    parts = region.view(height // window[0], window[0], width // window[1], window[1])
    parts = parts.transpose(1, 2).reshape(-1, window[0] * window[1])
    return torch.where(parts[:, None] == parts[:, :, None], 0.0, -100.0).to(like.dtype)


@form_of("torchvision.models.maxvit.RelativePositionalMultiHeadAttention")
def _relative_heads(self: Any, x: Tensor) -> Tensor:
    batch, groups, tokens, channels = x.shape
    q, k, v = (
        part.reshape(batch, groups, tokens, self.n_heads, self.head_dim).transpose(2, 3)
        for part in torch.chunk(self.to_qkv(x), 3, dim=-1)
    )
    places = self.get_relative_positional_bias()
    mixed = F.scaled_dot_product_attention(q, k * self.scale_factor, v, places, scale=1.0)
    return self.merge(mixed.transpose(2, 3).reshape(batch, groups, tokens, channels))


def use_fused_attention(net: nn.Module) -> None:
    """Tell timm's modules to attend by torch's function, which has a form for volumes."""
    for module in net.modules():
        if isinstance(getattr(module, "fused_attn", None), bool):
            module.fused_attn = True  # type: ignore[assignment]


def may_attend(net: nn.Module) -> bool:
    """Tell whether a network seems to have attention, by the types of its modules."""
    return any(
        isinstance(module, nn.MultiheadAttention)
        or hasattr(module, "fused_attn")
        or f"{type(module).__module__}.{type(module).__qualname__}" in FORMS
        for module in net.modules()
    )


def first_convolution(net: nn.Module, run: Callable[[], object]) -> str:
    """Find the first convolution of a network that attends, in the order in which it runs.

    Args:
        net: A 2D network.
        run: Runs it on images.

    Returns:
        The path of the convolution, empty where there is none, or the network does not attend.
    """
    seen: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, path=path: seen.append(path))
        for path, module in net.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with _Attentions() as attentions:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if seen and (attentions.met or may_attend(net)) else ""


class _Attentions(TorchFunctionMode):
    """Tells whether a network attends by functions of torch.

    Attributes:
        met: Whether it did.
    """

    met = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        """Call a function, and note those that attend."""
        if func in (F.scaled_dot_product_attention, F.multi_head_attention_forward):
            self.met = True
        return func(*args, **(kwargs or {}))
