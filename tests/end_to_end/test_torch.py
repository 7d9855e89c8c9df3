"""PyTorch models through iree-turbine, as users export them, by the error rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from iree.turbine import aot
from torch.nn.functional import scaled_dot_product_attention as sdpa

from iree_flashattn.bench import running
from support.accuracy import TINY, largest_error
from support.torch_models import BF16, ELEMENT, F16, F32, Function, qkv, tensors, to_array


@dataclass
class Case:
    name: str
    function: Callable | torch.nn.Module
    shapes: list[tuple[int, ...]]
    dtype: torch.dtype = F32
    dynamic: dict[int, dict[int, str]] = field(default_factory=dict)
    runs: list[list[tuple[int, ...]]] = field(default_factory=list)  # other shapes to run with
    mask: str = "none"
    kernel: str = "fa_forward"
    expect: dict = field(default_factory=dict)  # fields of the report's site


def mha(**options) -> torch.nn.Module:
    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(64, 4, batch_first=True)

        def forward(self, x):
            out, weights = self.attention(x, x, x, **options)
            return out if weights is None else (out, weights)

    return Attention().eval()


def heads_from_projection(x):
    """Packed QKV, as many models keep it: [batch, sequence, 3, heads, dim]."""
    q, k, v = x.unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
    return sdpa(q, k, v).transpose(1, 2).flatten(2)


GQA = {"heads": 6, "kv_heads": 2}
CASES = [
    Case("plain", sdpa, qkv(2, 3, 33, 40), expect={"spelling": "attention"}),
    Case("scale", lambda q, k, v: sdpa(q, k, v, scale=0.3), qkv(1, 2, 20, 16),
         expect={"scale": pytest.approx(0.3)}),
    Case("causal", lambda q, k, v: sdpa(q, k, v, is_causal=True), qkv(1, 3, 70, 32), mask="causal"),
    Case("causal_cross", lambda q, k, v: sdpa(q, k, v, is_causal=True), qkv(1, 2, 33, 32, keys=50),
         mask="causal"),
    Case("boolean", lambda q, k, v, m: sdpa(q, k, v, attn_mask=m > 0),
         [*qkv(2, 2, 20, 16), (2, 1, 20, 20)], mask="boolean"),
    Case("boolean_keys", lambda q, k, v, m: sdpa(q, k, v, attn_mask=m > 0),
         [*qkv(2, 2, 20, 16), (2, 1, 1, 20)], mask="boolean"),
    Case("additive", lambda q, k, v, m: sdpa(q, k, v, attn_mask=m),
         [*qkv(2, 2, 20, 16), (1, 1, 20, 20)], mask="additive"),
    Case("gqa", lambda q, k, v: sdpa(q, k, v, enable_gqa=True), qkv(2, 6, 20, 16, kv_heads=2),
         expect=GQA),
    Case("dk_ne_dv", sdpa, qkv(1, 2, 40, 24, dv=56), expect={"dk": 24, "dv": 56}),
    Case("cross", sdpa, qkv(1, 2, 7, 64, keys=77)),
    *(Case(f"dim_{d}", sdpa, qkv(1, 2, 45, d), expect={"dk": d}) for d in (160, 192, 256)),
    *(Case(f"{e}_{n}", f, qkv(1, 2, 50, 64), dtype=t, mask=m, expect={"dtype": e})
      for e, t in (("f16", F16), ("bf16", BF16))
      for n, f, m in (("plain", sdpa, "none"),
                      ("causal", lambda q, k, v: sdpa(q, k, v, is_causal=True), "causal"))),
    Case("decode", sdpa, qkv(1, 2, 1, 64, keys=1024), kernel="fa_partial"),
    Case("decode_gqa", lambda q, k, v: sdpa(q, k, v, enable_gqa=True),
         qkv(1, 8, 1, 64, keys=1100, kv_heads=2), kernel="fa_partial"),
    Case("dynamic", lambda q, k, v: sdpa(q, k, v, is_causal=True), qkv(1, 2, 16, 32),
         dynamic={i: {2: "s"} for i in range(3)}, mask="causal",
         runs=[qkv(1, 2, s, 32) for s in (1, 17, 200)]),
    Case("packed_qkv", heads_from_projection, [(2, 20, 192)]),
    Case("mha", mha(need_weights=False), [(2, 24, 64)]),
    Case("mha_weights", mha(need_weights=True, average_attn_weights=False), [(2, 24, 64)],
         expect={"weights": True}),
    Case("eager", lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ v,
         qkv(2, 2, 30, 64)),
]  # fmt: skip


def export(case: Case) -> bytes:
    module = case.function
    if not isinstance(module, torch.nn.Module):
        module = Function(module)
    arguments = tensors(case.shapes, case.dtype)
    shapes = None
    if case.dynamic:
        dims = {name: torch.export.Dim(name, min=1, max=4096)
                for axes in case.dynamic.values() for name in axes.values()}  # fmt: skip
        shapes = {"arguments": tuple(
            {axis: dims[name] for axis, name in case.dynamic.get(i, {}).items()}
            for i in range(len(arguments))
        )}  # fmt: skip
    exported = aot.export(module, args=tuple(arguments), dynamic_shapes=shapes)
    return str(exported.mlir_module).encode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_export(case: Case, compile_served: Callable) -> None:
    torch.manual_seed(np.random.SeedSequence().entropy % 2**32)
    done = compile_served(export(case))
    (site,) = done.sites
    assert site["mask"] == case.mask
    assert site["kernel"].startswith(case.kernel)
    assert {name: site[name] for name in case.expect} == case.expect
    function = running.load(done.vmfb, "main")
    for shapes in case.runs or [case.shapes]:
        arguments = tensors(shapes, case.dtype)
        results = function(*(to_array(x) for x in arguments))
        results = results if isinstance(results, list | tuple) else [results]
        with torch.no_grad():
            theirs = case.function(*arguments)
            exact = _in_double(case.function, arguments)
        for ours, torch_result, reference in zip(results, _flat(theirs), _flat(exact), strict=True):
            element = ELEMENT[case.dtype]
            reference = reference.numpy()
            theirs_error = largest_error(torch_result.double().numpy(), reference)
            limit = 2 * theirs_error + TINY[element] * max(1.0, np.abs(reference).max(initial=0))
            assert largest_error(running.to_float(ours), reference) <= limit


def _flat(result) -> list[torch.Tensor]:
    return [x for x in (result if isinstance(result, tuple) else (result,)) if x is not None]


def _in_double(function: Callable | torch.nn.Module, arguments: list[torch.Tensor]):
    wide = [x.double() for x in arguments]
    if isinstance(function, torch.nn.Module):
        result = function.double()(*wide)
        function.float()
        return result
    return function(*wide)


def test_fully_masked_row_is_zero(compile_served: Callable) -> None:
    """PyTorch's SDPA gives zeros where a row sees no key."""
    case = Case("masked", lambda q, k, v, m: sdpa(q, k, v, attn_mask=m > 0),
                [*qkv(1, 2, 9, 16), (1, 1, 9, 9)])  # fmt: skip
    function = running.load(compile_served(export(case)).vmfb, "main")
    arguments = tensors(case.shapes, F32)
    arguments[3][0, 0, 4] = -1.0
    result = running.to_float(function(*(to_array(x) for x in arguments)))
    expected = case.function(*arguments).numpy()
    assert (result[:, :, 4] == 0).all()
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_nan_in_a_query_stays_in_its_row(compile_served: Callable) -> None:
    case = Case("nan", sdpa, qkv(1, 2, 40, 16))
    function = running.load(compile_served(export(case)).vmfb, "main")
    arguments = tensors(case.shapes, F32)
    arguments[0][0, 1, 7, 3] = float("nan")
    result = running.to_float(function(*(to_array(x) for x in arguments)))
    expected = np.zeros(result.shape[:3], bool)
    expected[0, 1, 7] = True
    assert (np.isnan(result).all(-1) == expected).all()
    assert (np.isnan(result).any(-1) == expected).all()


def test_one_kernel_with_and_without_weights(compile_served: Callable) -> None:
    """Two executables hold the same kernel, and the compiler links them into one."""

    def both(q, k, v):
        p = torch.softmax(q @ k.transpose(-1, -2) / 4, -1)
        return p @ v, p, sdpa(k, v, q)

    case = Case("both", both, qkv(1, 2, 20, 16))
    done = compile_served(export(case), sites=2)
    assert sorted(site["weights"] for site in done.sites) == [False, True]
    arguments = tensors(case.shapes, F32)
    results = running.load(done.vmfb, "main")(*(to_array(x) for x in arguments))
    for result, expected in zip(results, both(*arguments), strict=True):
        np.testing.assert_allclose(running.to_float(result), expected.numpy(), atol=5e-6)
