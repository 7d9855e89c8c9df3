"""The torch models, through torch's ONNX exporter and IREE's importer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch

from .exported import Exported, Generator
from .onnx_models import imported
from .torch_models import Function, SelfAttention, eager, einsum, masked, qkv, repeated, weights

OPSET = 20


def export(model: torch.nn.Module, inputs: list[torch.Tensor], sites: int = 1) -> Exported:
    model = model.eval()
    with torch.no_grad():
        outputs = model(*inputs)
    program = torch.onnx.export(
        model, tuple(inputs), dynamo=True, opset_version=OPSET, verbose=False
    )
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program.save(str(path))
        graph = onnx.load(path)
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    return Exported(
        imported(graph), graph.graph.name, [t.numpy() for t in inputs],
        [t.numpy() for t in outputs], sites,
    )  # fmt: skip


class Layer(torch.nn.Module):
    """An encoder layer, without its fused fast path."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, x):
        return self.layer._ff_block(self.layer._sa_block(x, None, None))


def sdpa(**flags: bool):
    return Function(
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, **flags)
    )


MODELS: dict[str, Generator] = {
    "eager": lambda: export(Function(eager), qkv()),
    "cross": lambda: export(Function(eager), qkv(rows=5, keys=9)),
    "masked": lambda: export(Function(masked), qkv()),
    "einsum": lambda: export(Function(einsum), qkv()),
    "repeated_heads": lambda: export(Function(repeated), qkv(kv_heads=2)),
    "weights": lambda: export(Function(weights), qkv()),
    "sdpa": lambda: export(sdpa(), qkv()),
    "sdpa_causal": lambda: export(sdpa(is_causal=True), qkv()),
    "sdpa_gqa": lambda: export(sdpa(enable_gqa=True), qkv(kv_heads=2)),
    "multihead_attention": lambda: export(SelfAttention(), [torch.randn(2, 12, 32)]),
    "encoder_layer": lambda: export(Layer(), [torch.randn(2, 12, 32)]),
}
