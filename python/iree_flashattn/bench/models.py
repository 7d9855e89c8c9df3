"""Whole models with random weights, through iree-turbine: stock, with the flag, PyTorch eager."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from iree.turbine import aot
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu

from ..compiling import LOCAL, compile_module
from . import running


class Attention(nn.Module):
    """Multi-head attention as these models have it: one projection, SDPA, one projection."""

    def __init__(self, width: int, heads: int, kv_heads: int | None = None, causal: bool = False):
        super().__init__()
        self.heads, self.kv_heads, self.causal = heads, kv_heads or heads, causal
        self.dim = width // heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * self.kv_heads * self.dim)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        source = x if context is None else context
        q = self.q(x).unflatten(-1, (self.heads, self.dim)).transpose(1, 2)
        k, v = (
            part.unflatten(-1, (self.kv_heads, self.dim)).transpose(1, 2)
            for part in self.kv(source).chunk(2, -1)
        )
        o = scaled_dot_product_attention(
            q, k, v, is_causal=self.causal, enable_gqa=self.heads != self.kv_heads
        )
        return self.out(o.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A transformer layer; ``gated``: SiLU-gated MLP as in Llama, else GELU."""

    def __init__(self, width: int, heads: int, inner: int, gated: bool = False, **attention):
        super().__init__()
        self.attention = Attention(width, heads, **attention)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.gate = nn.Linear(width, inner) if gated else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        hidden = gelu(self.up(y)) if self.gate is None else silu(self.gate(y)) * self.up(y)
        return x + self.down(hidden)


class Transformer(nn.Module):
    """Token ids (``vocabulary``) or image patches in, hidden states out."""

    def __init__(self, layers: int, width: int, inner: int, vocabulary: int = 0, **layer: Any):
        super().__init__()
        heads = layer.pop("heads")
        self.tokens = nn.Embedding(vocabulary, width) if vocabulary else None
        self.patches = None if vocabulary else nn.Linear(3 * 16 * 16, width)
        self.layers = nn.ModuleList(Layer(width, heads, inner, **layer) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x) if self.tokens is not None else self.patches(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class UNetBlock(nn.Module):
    """Stable Diffusion's transformer block: 64x64 latents to themselves and to 77 text tokens."""

    def __init__(self) -> None:
        super().__init__()
        width = 320
        self.own, self.text = Attention(width, 8), Attention(width, 8)
        self.project = nn.Linear(768, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        x = x + self.own(self.norms[0](x))
        x = x + self.text(self.norms[1](x), self.project(text))
        return x + self.down(gelu(self.up(self.norms[2](x))))


@dataclass
class Case:
    name: str
    batch: int
    make: Callable[[], nn.Module]
    inputs: Callable[[int], list[torch.Tensor]]


def cases(only: str = "") -> list[Case]:
    def tokens(length: int) -> Callable[[int], list[torch.Tensor]]:
        return lambda batch: [torch.randint(0, 1000, (batch, length))]

    base = {"layers": 12, "width": 768, "inner": 3072, "heads": 12}
    found = [
        ("bert_base_s128", lambda: Transformer(vocabulary=1000, **base), tokens(128)),
        ("gpt2_small_s512", lambda: Transformer(vocabulary=1000, causal=True, **base), tokens(512)),
        ("vit_b16", lambda: Transformer(**base), lambda b: [torch.randn(b, 197, 768)]),
        (
            "llama_block_s1024",
            lambda: Transformer(
                layers=1, width=2048, inner=5632, heads=32, kv_heads=8, vocabulary=1000,
                gated=True, causal=True,
            ),
            tokens(1024),
        ),
        (
            "sd_unet_block",
            UNetBlock,
            lambda b: [torch.randn(b, 4096, 320), torch.randn(b, 77, 768)],
        ),
    ]  # fmt: skip
    return [
        Case(name, batch, make, inputs)
        for name, make, inputs in found
        for batch in (1, 8)
        if only in f"{name}_b{batch}"
    ]


@dataclass
class Row:
    model: str
    batch: int
    sites: int
    served: int
    seconds: dict[str, float]
    share: dict[str, float]  # attention's share of the time, stock and with the flag
    difference: float  # largest, from PyTorch's result

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self) -> list[str]:
        ms = {name: f"{value * 1e3:.1f}" for name, value in self.seconds.items()}
        speedup = self.seconds["stock"] / self.seconds["kernels"]
        return [
            self.model,
            str(self.batch),
            f"{self.served}/{self.sites}",
            ms["stock"],
            ms["kernels"],
            f"{speedup:.2f}",
            ms["torch"],
            f"{self.share['stock']:.0%}",
            f"{self.share['kernels']:.0%}",
            f"{self.difference:.0e}",
        ]


def measure(case: Case, seconds: float) -> Row:
    """Raises RuntimeError where the flag changes the result by more than rounding."""
    torch.manual_seed(0)
    model, arguments = case.make().eval(), case.inputs(case.batch)
    with torch.no_grad():
        expected = model(*arguments).numpy()
    source = exported(model, arguments)
    done = compile_module(source, LOCAL)
    stock = compile_module(source, LOCAL, plugin=False)
    functions = {
        "stock": running.load(stock.vmfb, "main"),
        "kernels": running.load(done.vmfb, "main"),
    }
    data = [running.on_device(x.numpy()) for x in arguments]
    difference = float(np.abs(running.to_float(functions["kernels"](*data)) - expected).max())
    if not difference <= 2e-3:
        raise RuntimeError(f"{case.name}: with the flag the result differs by {difference:.3g}")
    rest = running.load(
        compile_module(exported(without_attention(model), arguments), LOCAL, plugin=False).vmfb,
        "main",
    )
    calls: dict[str, Callable[[], object]] = {
        name: (lambda f=f: f(*data)) for name, f in (functions | {"rest": rest}).items()
    }

    def eager() -> None:
        with torch.no_grad():
            model(*arguments)

    calls["torch"] = eager
    times = running.interleaved(calls, seconds, 3)
    medians = {name: running.median(values) for name, values in times.items()}
    left = medians.pop("rest")
    share = {name: max(0.0, 1 - left / medians[name]) for name in ("stock", "kernels")}
    served = sum(site["matched"] for site in done.sites)
    return Row(case.name, case.batch, len(done.sites), served, medians, share, difference)


def exported(model: nn.Module, arguments: list[torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    aot.export(model, args=tuple(arguments)).mlir_module.write_bytecode(buffer)
    return buffer.getvalue()


def without_attention(model: nn.Module) -> nn.Module:
    """A copy whose attention returns its queries: the time of everything else."""
    stripped = copy.deepcopy(model)
    for module in stripped.modules():
        if isinstance(module, Attention):
            module.forward = _projections_only.__get__(module)
    return stripped


def _projections_only(
    self: Attention, x: torch.Tensor, context: torch.Tensor | None = None
) -> torch.Tensor:
    q = self.q(x)
    kv = self.kv(x if context is None else context)
    # All of K and V is used, by a reduction that costs next to nothing.
    return self.out(q + kv.mean(dim=(1, 2), keepdim=True))
