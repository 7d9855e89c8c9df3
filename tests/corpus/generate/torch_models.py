"""Attention as people write it in PyTorch, through iree-turbine's exporter."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from iree.turbine import aot
from torch.nn.functional import scaled_dot_product_attention as sdpa

from .exported import Exported, Generator

LOWEST = torch.finfo(torch.float32).min


class Function(torch.nn.Module):
    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)


class Called(torch.nn.Module):
    """A model with some of its arguments by position, the others fixed."""

    def __init__(self, model, names: list[str], fixed: dict, result: Callable) -> None:
        super().__init__()
        self.model, self.names, self.fixed, self.result = model, names, fixed, result

    def forward(self, *arguments):
        given = dict(zip(self.names, arguments, strict=True))
        return self.result(self.model(**given, **self.fixed))


def core() -> dict:
    """torch's core decompositions, and one for an op that torch-mlir does not know."""

    def squeeze(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
        dims = [d % x.dim() for d in dims]
        return x.reshape([n for d, n in enumerate(x.shape) if d not in dims or n != 1])

    table = torch.export.default_decompositions()
    table[torch.ops.aten.squeeze.dims] = squeeze
    return table


def export(
    model: torch.nn.Module, inputs: list[torch.Tensor], sites: int, decomposed: bool = False
) -> Exported:
    model = model.eval()
    with torch.no_grad():
        outputs = model(*inputs)
        if decomposed:
            program = torch.export.export(model, tuple(inputs)).run_decompositions(core())
            text = str(aot.export(program).mlir_module)
        else:
            text = str(aot.export(model, args=tuple(inputs)).mlir_module)
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    return Exported(
        text, "main", [t.numpy() for t in inputs], [t.detach().numpy() for t in outputs], sites
    )


def export_dynamic(
    model: torch.nn.Module, inputs: list[torch.Tensor], dims: list[tuple[int, ...]], sites: int
) -> Exported:
    """``dims``: those of each input that are known at run time."""
    shapes = tuple(dict.fromkeys(found, torch.export.Dim.AUTO) for found in dims)
    with torch.no_grad():
        outputs = model(*inputs)
        program = torch.export.export(model, tuple(inputs), dynamic_shapes=(shapes,))
    text = str(aot.export(program).mlir_module)
    return Exported(text, "main", [t.numpy() for t in inputs], [outputs.numpy()], sites)


def qkv(heads: int = 4, kv_heads: int = 4, rows: int = 12, keys: int = 12) -> list[torch.Tensor]:
    torch.manual_seed(11)
    shapes = [(2, heads, rows, 16), (2, kv_heads, keys, 16), (2, kv_heads, keys, 16)]
    return [torch.randn(s) for s in shapes]


def eager(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(16), -1) @ v


def masked(q, k, v):
    s = q @ k.transpose(-1, -2) * 0.25
    causal = torch.ones(12, 12, dtype=torch.bool).tril()
    return torch.softmax(s.masked_fill(~causal, LOWEST), -1) @ v


def window(q, k, v):
    i, j = torch.arange(12)[:, None], torch.arange(12)[None, :]
    keep = torch.logical_and(j <= i, j > i - 4)
    return torch.softmax(torch.where(keep, q @ k.transpose(-1, -2), -torch.inf), -1) @ v


def einsum(q, k, v):
    p = torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.25, -1)
    return torch.einsum("bhqk,bhkd->bqhd", p, v).flatten(2)


def repeated(q, k, v):
    return eager(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))


def softcapped(q, k, v):
    s = torch.tanh(q @ k.transpose(-1, -2) * 0.25 / 20.0) * 20.0
    return torch.softmax(s, -1) @ v


def logsumexp(q, k, v):
    s = q @ k.transpose(-1, -2) * 0.25
    return torch.exp(torch.log_softmax(s, -1)) @ v


def epsilon(q, k, v):
    s = q @ k.transpose(-1, -2) * 0.25
    e = torch.exp(s - s.max(-1, keepdim=True).values)
    return (e / (e.sum(-1, keepdim=True) + 1e-9)) @ v


def weights(q, k, v):
    p = torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1)
    return p @ v, p


def talking_heads(q, k, v):
    p = torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1)
    return torch.einsum("bhqk,hg->bgqk", p, torch.ones(4, 4) / 4) @ v


def gated(q, k, v):
    return torch.nn.functional.silu(q @ k.transpose(-1, -2)) @ v


class SelfAttention(torch.nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.attention = torch.nn.MultiheadAttention(32, 4, batch_first=True, **options)

    def forward(self, x):
        return self.attention(x, x, x)


class Transformer(torch.nn.Module):
    """Encoder and decoder, with a text that is padded: three attentions of its layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        torch.backends.mha.set_fastpath_enabled(False)
        self.model = torch.nn.Transformer(32, 4, 1, 1, 64, batch_first=True)

    def forward(self, source, target, padding):
        masks = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}
        return self.model(source, target, **masks)


class RelativeImage(torch.nn.Module):
    """Attention over an image with relative positions for rows and for columns (SAM)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.qkv = torch.nn.Linear(32, 96)
        self.rows, self.columns = (torch.nn.Parameter(torch.randn(7, 8) * 0.3) for _ in range(2))

    def forward(self, x):
        packed = self.qkv(x).reshape(2, 16, 3, 4, 8).permute(2, 0, 3, 1, 4)
        q, k, v = packed.reshape(3, 8, 16, 8).unbind(0)
        s = ((q * 8**-0.5) @ k.transpose(-2, -1)).view(8, 4, 4, 4, 4)
        apart = torch.arange(4)[:, None] - torch.arange(4)[None, :] + 3
        image = q.reshape(8, 4, 4, 8)
        s = s + torch.einsum("bhwc,hkc->bhwk", image, self.rows[apart])[..., None]
        s = s + torch.einsum("bhwc,wkc->bhwk", image, self.columns[apart])[:, :, :, None]
        return s.view(8, 16, 16).softmax(-1) @ v


def absorbed(q, q_rotated, latent, k_rotated, up_k, up_v):
    """Latent attention whose projections of K and V are done on the query and the result."""
    q = torch.einsum("bhld,hdc->bhlc", q, up_k)
    s = torch.einsum("bhlc,bsc->bhls", q, latent)
    s = s + torch.einsum("bhlr,bsr->bhls", q_rotated, k_rotated)
    o = torch.einsum("bhls,bsc->bhlc", (s * 0.2).softmax(-1), latent)
    return torch.einsum("bhlc,hcv->bhlv", o, up_v)


def heads_as_batch(q, k, v):
    """The Set Transformer: heads are cut off the last dimension and laid behind each other."""
    q, k, v = (torch.cat(x.transpose(1, 2).flatten(2).split(16, 2), 0) for x in (q, k, v))
    o = q + torch.softmax(q.bmm(k.transpose(1, 2)) / 8, 2).bmm(v)
    return torch.cat(o.split(2, 0), 2)


def image_generator(x, project):
    """SAGAN: the softmax over the first of two positions, V before P."""
    f, g, h = (project @ x.flatten(2)).split([4, 4, 16], 1)
    return torch.bmm(h, torch.bmm(f.transpose(1, 2), g).softmax(1))


def one_more(q, k, v):
    """A sink of 0, with the maximum that goes with it."""
    s = q @ k.transpose(-1, -2) * 0.25
    top = s.amax(-1, keepdim=True).clamp(min=0)
    e = torch.exp(s - top)
    return (e / (e.sum(-1, keepdim=True) + torch.exp(-top))) @ v


def looked_up(x, patterns):
    """A Hopfield network: K and V are the patterns, and the result is asked again."""
    for _ in range(2):
        x = (x @ patterns.T * 2.0).softmax(-1) @ patterns
    return x


def linear(q, k, v):
    """Softmaxes of Q and K, and no scores."""
    return q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)


def differential(q, k, v):
    """The difference of two softmaxes."""
    first, second = ((a @ b.transpose(-1, -2)).softmax(-1) for a, b in
                     zip(q.split(8, -1), k.split(8, -1), strict=True))  # fmt: skip
    return (first - 0.3 * second) @ v


def cached(q, keys, values, old_keys, old_values, position):
    """A step of decoding: new rows go into a cache of fixed length."""
    keys = old_keys.index_copy(2, position, keys)
    values = old_values.index_copy(2, position, values)
    keep = torch.arange(32)[None, None, None, :] <= position.view(1, 1, 1, 1)
    return sdpa(q, keys, values, attn_mask=keep.expand(2, 1, 1, 32), enable_gqa=True), keys, values


def with_cache(q, keys, values, old_keys, old_values, mask):
    """A step of decoding with a cache of any length, heads repeated for SDPA."""
    keys = torch.cat([old_keys, keys], 2).repeat_interleave(2, 1)
    values = torch.cat([old_values, values], 2).repeat_interleave(2, 1)
    return sdpa(q, keys, values, attn_mask=mask)


def _of(function: Callable, sites: int = 1, decomposed: bool = False, **shape: int) -> Generator:
    return lambda: export(Function(function), qkv(**shape), sites, decomposed)


MODELS: dict[str, Generator] = {
    "eager": _of(eager),
    "eager_cross": _of(eager, rows=5, keys=9),
    "masked": _of(masked),
    "window": _of(window),
    "einsum": _of(einsum),
    "repeated_heads": _of(repeated, kv_heads=2),
    "softcapped": _of(softcapped),
    "logsumexp": _of(logsumexp),
    "epsilon": _of(epsilon),
    "weights": _of(weights),
    "sdpa": _of(sdpa),
    "sdpa_causal": _of(lambda q, k, v: sdpa(q, k, v, is_causal=True)),
    "sdpa_decomposed": _of(sdpa, decomposed=True),
    "sdpa_gqa": _of(lambda q, k, v: sdpa(q, k, v, enable_gqa=True), kv_heads=2),
    "multihead_attention": lambda: export(SelfAttention(), [torch.randn(2, 12, 32)], 1),
    "bias_for_keys": lambda: export(
        SelfAttention(add_bias_kv=True, add_zero_attn=True), [torch.randn(2, 12, 32)], 1
    ),
    "transformer": lambda: export(
        Transformer(),
        [torch.randn(2, 10, 32), torch.randn(2, 6, 32), torch.arange(10).repeat(2, 1) > 7],
        3,
    ),
    "relative_image": lambda: export(RelativeImage(), [torch.randn(2, 4, 4, 32)], 1),
    "cached": lambda: export(
        Function(cached),
        [
            torch.randn(2, 4, 1, 16),
            *(torch.randn(2, 2, n, 16) for n in (1, 1, 32, 32)),
            torch.tensor([5]),
        ],
        1,
    ),
    "cache_of_any_length": lambda: export_dynamic(
        Function(with_cache),
        [
            torch.randn(2, 4, 1, 16),
            *(torch.randn(2, 2, n, 16) for n in (1, 1, 9, 9)),
            torch.randn(2, 1, 1, 10),
        ],
        [(0,), (0,), (0,), (0, 2), (0, 2), (0, 3)],
        1,
    ),
    "absorbed": lambda: export(
        Function(absorbed),
        [
            torch.randn(2, 4, 3, 16),
            torch.randn(2, 4, 3, 8),
            torch.randn(2, 9, 24),
            torch.randn(2, 9, 8),
            torch.randn(4, 16, 24) / 4,
            torch.randn(4, 24, 16) / 4,
        ],
        1,
    ),
    "heads_as_batch": _of(heads_as_batch),
    "image_generator": lambda: export(
        Function(image_generator), [torch.randn(2, 16, 6, 6), torch.randn(24, 16) / 4], 1
    ),
    "one_more": _of(one_more),
    "looked_up": lambda: export(Function(looked_up), [torch.randn(7, 16), torch.randn(30, 16)], 2),
    "linear": _of(linear, sites=0),
    "differential": _of(differential, sites=0),
    "talking_heads": _of(talking_heads, sites=0),
    "gated": _of(gated, sites=0),
}
