"""Well-known models in PyTorch, with random weights: the sizes and the order of operations of each.

All attention goes through :class:`Attend`, so that its time can be told from the rest's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu


class Attend(nn.Module):
    """softmax(q kᵀ) v on [batch, heads, length, head dim]."""

    twice = False  # attends with the result once more: what that adds is the time of attention

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        for _ in range(1 + self.twice):
            q = scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
            )
        return q


class Attention(nn.Module):
    def __init__(
        self, width: int, heads: int, kv_heads: int = 0, context: int = 0, bias: bool = True
    ) -> None:
        """``context``: the width of what K and V are made of; 0: the same as the queries'."""
        super().__init__()
        self.heads, self.kv_heads, self.dim = heads, kv_heads or heads, width // heads
        self.q = nn.Linear(width, width, bias)
        self.k = nn.Linear(context or width, self.kv_heads * self.dim, bias)
        self.v = nn.Linear(context or width, self.kv_heads * self.dim, bias)
        self.out = nn.Linear(width, width, bias)
        self.attend = Attend()

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        angles: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        source = x if context is None else context
        q = self.q(x).unflatten(-1, (self.heads, self.dim)).transpose(1, 2)
        k, v = (
            part(source).unflatten(-1, (self.kv_heads, self.dim)).transpose(1, 2)
            for part in (self.k, self.v)
        )
        if angles is not None:
            q, k = rotated(q, *angles), rotated(k, *angles)
        o = self.attend(q, k, v, mask, causal)
        return self.out(o.transpose(1, 2).flatten(2))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, the halves of the head dim as pairs."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Bert(nn.Module):
    """Token ids and which of them are no padding, to hidden states; norms come after."""

    def __init__(self, layers=12, width=768, heads=12, vocabulary=30522, length=512) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleDict({
                "attention": Attention(width, heads),
                "norm1": nn.LayerNorm(width),
                "up": nn.Linear(width, 4 * width),
                "down": nn.Linear(4 * width, width),
                "norm2": nn.LayerNorm(width),
            })
            for _ in range(layers)
        )  # fmt: skip

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        mask = real[:, None, None, :]
        x = self.norm(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        for layer in self.layers:
            x = layer["norm1"](x + layer["attention"](x, mask=mask))
            x = layer["norm2"](x + layer["down"](gelu(layer["up"](x))))
        return x


class Block(nn.Module):
    """A layer whose norms come first, as in GPT-2 and ViT."""

    def __init__(self, width: int, heads: int, approximate: str = "none") -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.approximate = approximate

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        x = x + self.attention(self.norm1(x), causal=causal)
        return x + self.down(gelu(self.up(self.norm2(x)), approximate=self.approximate))


class Gpt2(nn.Module):
    """Token ids to the scores of the next token."""

    def __init__(self, layers=12, width=768, heads=12, vocabulary=50257, length=1024) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, "tanh") for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, causal=True)
        return self.norm(x[:, -1]) @ self.tokens.weight.T


class Vit(nn.Module):
    """Images to the scores of 1000 classes."""

    def __init__(self, layers=12, width=768, heads=12, size=224, patch=16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.first.expand(x.shape[0], -1, -1), x), 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5))


class LlamaBlock(nn.Module):
    """One layer of the shape of Llama 3.2 1B: grouped kv heads, rotary positions, gated MLP."""

    def __init__(self, width=2048, heads=32, kv_heads=8, inner=8192, length=2048) -> None:
        super().__init__()
        self.attention = Attention(width, heads, kv_heads, bias=False)
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)
        half = torch.arange(0, width // heads, 2) / (width // heads)
        angle = torch.outer(torch.arange(length), 500000.0**-half).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        angles = (self.cos[:length], self.sin[:length])
        x = x + self.attention(self.norm1(x), causal=True, angles=angles)
        y = self.norm2(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))


class UNetBlock(nn.Module):
    """Stable Diffusion's transformer block: an image to itself and to the tokens of a text."""

    def __init__(self, width=320, heads=8, text=768) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(32, width // 4), width)
        self.into, self.back = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = Attention(width, heads, bias=False)
        self.cross = Attention(width, heads, context=text, bias=False)
        self.up, self.down = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        x = self.into(self.norm(image)).flatten(2).transpose(1, 2)
        x = x + self.own(self.norms[0](x))
        x = x + self.cross(self.norms[1](x), text)
        value, gate = self.up(self.norms[2](x)).chunk(2, -1)
        x = x + self.down(value * gelu(gate))
        return image + self.back(x.transpose(1, 2).unflatten(2, image.shape[2:]))
