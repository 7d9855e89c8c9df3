"""Whole models through iree-turbine: stock, with the flag, and PyTorch eager, in turns.

Weights are a parameter file, which all modules of a model read.
"""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from iree.turbine import aot
from torch import Tensor, nn

from ..compiling import LOCAL, Compiled, compile_module
from . import architectures, running
from .results import ModelResult

# Largest error of a result, over its largest value; twice PyTorch's own is always allowed.
LIMIT = 2e-5


@dataclass(frozen=True)
class Model:
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], list[Tensor]]  # from the batch


def tokens(length: int, vocabulary: int, batch: int) -> list[Tensor]:
    return [torch.randint(0, vocabulary, (batch, length))]


def padded_tokens(length: int, vocabulary: int, batch: int) -> list[Tensor]:
    """Sequences of half the length and more."""
    lengths = torch.randint(length // 2, length + 1, (batch, 1))
    return [*tokens(length, vocabulary, batch), torch.arange(length)[None] < lengths]


def normal(*shapes: tuple[int, ...]) -> Callable[[int], list[Tensor]]:
    return lambda batch: [torch.randn(batch, *shape) for shape in shapes]


MODELS = (
    Model("BERT-base, 128 tokens", architectures.Bert, partial(padded_tokens, 128, 30522)),
    Model("GPT-2 small, 512 tokens", architectures.Gpt2, partial(tokens, 512, 50257)),
    Model("ViT-B/16", architectures.Vit, normal((3, 224, 224))),
    Model("Llama block, 512 tokens", architectures.LlamaBlock, normal((512, 2048))),
    Model("SD UNet block, 64x64", architectures.UNetBlock, normal((320, 64, 64), (77, 768))),
)


def selected(only: str) -> list[Model]:
    return [model for model in MODELS if only.lower() in model.name.lower()]


def measure(model: Model, batches: Sequence[int], seconds: float) -> Iterator[ModelResult]:
    """One result for each batch. Raises RuntimeError where the flag makes a result worse."""
    torch.manual_seed(np.random.SeedSequence().entropy % 2**32)
    module = model.make().eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with tempfile.TemporaryDirectory(prefix="iree-flashattn-") as folder:
        weights = Path(folder) / "weights.irpa"
        aot.externalize_module_parameters(module)
        aot.save_module_parameters(weights, module)
        for batch in batches:
            yield _measure(model, module, batch, weights, seconds)


def _measure(
    model: Model, module: nn.Module, batch: int, weights: Path, seconds: float
) -> ModelResult:
    inputs = model.inputs(batch)
    stock, flagged, twice = compiled(module, inputs)
    data = [running.on_device(x.numpy()) for x in inputs]
    calls: dict[str, Callable[[], Any]] = {"torch": lambda: module(*inputs)}
    for name, done in (("stock", stock), ("kernels", flagged), ("twice", twice)):
        function = running.load_all(done.vmfb, parameters=weights)["main"]
        calls[name] = lambda f=function: f(*data)
    errors = check(model.name, module, inputs, calls)
    times = running.interleaved(calls, len(calls) * seconds, 3)
    ratio = {name: running.ratio(times, name, "kernels") for name in times if name != "kernels"}
    return ModelResult(
        model.name,
        batch,
        len(flagged.sites),
        sum(site["matched"] for site in flagged.sites),
        {name: running.median(values) for name, values in times.items()},
        ratio,
        shares(ratio["twice"], ratio["stock"]),
        errors,
    )


def shares(twice: float, stock: float) -> dict[str, float]:
    """Attention's part of the time, from times over that with the flag. The rest of the model is
    the same code with stock as with the flag."""
    attention = min(max(twice - 1, 0.0), 1.0)
    return {"stock": max(0.0, 1 - (1 - attention) / stock), "kernels": attention}


def compiled(module: nn.Module, inputs: list[Tensor]) -> tuple[Compiled, Compiled, Compiled]:
    """Stock, with the flag, and with the flag and all attention twice."""
    source = exported(module, inputs)
    set_twice(module, True)
    try:
        doubled = exported(module, inputs)
    finally:
        set_twice(module, False)
    return (
        compile_module(source, LOCAL, plugin=False),
        compile_module(source, LOCAL, options=running.link_options()),
        compile_module(doubled, LOCAL, options=running.link_options()),
    )


def exported(module: nn.Module, inputs: list[Tensor]) -> bytes:
    buffer = io.BytesIO()
    aot.export(module, args=tuple(inputs)).mlir_module.write_bytecode(buffer)
    return buffer.getvalue()


def set_twice(module: nn.Module, twice: bool) -> None:
    for part in module.modules():
        if isinstance(part, architectures.Attend):
            part.twice = twice


def check(
    name: str, module: nn.Module, inputs: list[Tensor], calls: dict[str, Callable[[], Any]]
) -> dict[str, float]:
    """Errors against float64, of the first and the last element of the batch."""
    chosen = sorted({0, inputs[0].shape[0] - 1})
    some = [x[chosen] for x in inputs]
    double = copy.deepcopy(module).double()
    expected = double(*(x.double() if x.is_floating_point() else x for x in some)).numpy()
    scale = np.abs(expected).max()
    errors = {}
    for contender in ("torch", "stock", "kernels"):
        result = calls[contender]()
        found = running.to_float(result) if hasattr(result, "to_host") else result.double().numpy()
        errors[contender] = float(f"{np.abs(found[chosen] - expected).max() / scale:.3g}")
    if not errors["kernels"] <= LIMIT + 2 * errors["torch"]:
        raise RuntimeError(f"{name}: with the flag the result is wrong by {errors['kernels']:.3g}")
    return errors
