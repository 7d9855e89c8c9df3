"""PyTorch functions as modules, their inputs, and tensors as arrays that IREE takes."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import torch

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
ELEMENT = {F32: "f32", F16: "f16", BF16: "bf16"}


class Function(torch.nn.Module):
    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)


def qkv(*shape: int, dv: int | None = None, keys: int | None = None, kv_heads: int | None = None):
    """Shapes of Q, K and V, [batch, heads, rows, dim]."""
    b, h, s, d = shape
    g, k = kv_heads or h, keys or s
    return [(b, h, s, d), (b, g, k, d), (b, g, k, dv or d)]


def tensors(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.randn(shape).to(dtype) for shape in shapes]


def to_array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == BF16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
