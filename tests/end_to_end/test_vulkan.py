"""Models compiled for Vulkan with the plugin, run by the stock runtime."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from iree_flashattn.compiling import CompileError, compile_module
from support import devices
from support.accuracy import TINY, largest_error

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels" / "spirv"))
import spirv_device

FLAGS = ("--iree-hal-target-device=vulkan",)
needs_device = pytest.mark.skipif(
    bool(spirv_device.why_no_device()), reason=spirv_device.why_no_device() or "-"
)


@pytest.fixture(scope="module", autouse=True)
def device_of_the_module() -> Iterator[None]:
    yield
    spirv_device.release()


class Attention(torch.nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def forward(self, q, k, v):
        return sdpa(q, k, v, **self.options)


class Transposed(torch.nn.Module):
    """K comes with its keys contiguous."""

    def forward(self, q, k, v):
        return sdpa(q, k.transpose(-1, -2), v)


class SelfAttention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)


class LogSumExp(torch.nn.Module):
    def forward(self, q, k, v):
        scores = q @ k.transpose(-1, -2) * 0.25
        highest = scores.amax(-1, keepdim=True)
        e = torch.exp(scores - highest)
        total = e.sum(-1, keepdim=True)
        return (e @ v) / total, (highest + torch.log(total)).squeeze(-1)


class SumOfBiases(torch.nn.Module):
    """No tensor has the bias; it has to be built."""

    def forward(self, q, k, v, slopes, distances):
        bias = slopes[:, None, None] * distances + slopes[0]
        return torch.softmax(q @ k.transpose(-1, -2) * 0.25 + bias, -1) @ v


def exported(module: torch.nn.Module, *arguments: torch.Tensor, dynamic_shapes=None) -> bytes:
    from iree.turbine import aot

    made = aot.export(module, args=arguments, dynamic_shapes=dynamic_shapes)
    return str(made.mlir_module).encode()


def run(vmfb: bytes, function: str, *arrays: np.ndarray) -> np.ndarray:
    (result,) = run_all(vmfb, function, *arrays)
    return result


def run_all(vmfb: bytes, function: str, *arrays: np.ndarray) -> list[np.ndarray]:
    results = devices.load_all(vmfb, "vulkan")[function](*arrays)
    found = []
    for result in results if isinstance(results, tuple | list) else [results]:
        view, device = result._buffer_view, spirv_device.config().device
        found.append(devices.download(device, view, result.dtype).reshape(view.shape))
    return found


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["f32", "f16"])
@pytest.mark.parametrize(
    ("shape", "keys", "options"),
    [
        ((2, 3, 50, 64), 50, {}),
        ((1, 4, 37, 40), 37, {"is_causal": True}),
        ((1, 8, 33, 128), 70, {}),
        ((1, 4, 1, 64), 1000, {}),
    ],
    ids=["plain", "causal", "cross", "decode"],
)
def test_torch_sdpa(dtype, shape, keys, options):
    torch.manual_seed(0)
    batch, heads, _, dim = shape
    q = torch.randn(shape).to(dtype)
    k, v = (torch.randn(batch, heads, keys, dim).to(dtype) for _ in range(2))
    source = exported(Attention(**options), q, k, v)
    done = compile_module(source, flags=FLAGS)
    assert [site["matched"] for site in done.sites] == [True], done.sites
    got = run(done.vmfb, "main", q.numpy(), k.numpy(), v.numpy())
    exact = sdpa(q.double(), k.double(), v.double(), **options).numpy()
    theirs = largest_error(sdpa(q, k, v, **options).float().numpy(), exact)
    element = {torch.float32: "f32", torch.float16: "f16"}[dtype]
    assert largest_error(got, exact) <= 2 * theirs + TINY[element]


@needs_device
def test_dynamic_sizes():
    source = """
    func.func @main(%q: tensor<2x?x64xf32>, %k: tensor<2x?x64xf32>, %v: tensor<2x?x64xf32>)
        -> tensor<2x?x64xf32> {
      %one = arith.constant 1 : index
      %rows = tensor.dim %q, %one : tensor<2x?x64xf32>
      %scale = arith.constant 0.125 : f32
      %empty = tensor.empty(%rows) : tensor<2x?x64xf32>
      %out = iree_linalg_ext.attention <{indexing_maps = [
          affine_map<(b, m, n, k1, k2) -> (b, m, k1)>, affine_map<(b, m, n, k1, k2) -> (b, k2, k1)>,
          affine_map<(b, m, n, k1, k2) -> (b, k2, n)>, affine_map<(b, m, n, k1, k2) -> ()>,
          affine_map<(b, m, n, k1, k2) -> (b, m, n)>]}>
        ins(%q, %k, %v, %scale
            : tensor<2x?x64xf32>, tensor<2x?x64xf32>, tensor<2x?x64xf32>, f32)
        outs(%empty : tensor<2x?x64xf32>) {
      ^bb0(%score: f32):
        iree_linalg_ext.yield %score : f32
      } -> tensor<2x?x64xf32>
      return %out : tensor<2x?x64xf32>
    }"""
    done = compile_module(source, flags=FLAGS)
    assert [site["matched"] for site in done.sites] == [True], done.sites
    rng = np.random.default_rng(1)
    for rows, keys in ((5, 9), (64, 64), (33, 130)):
        q = rng.standard_normal((2, rows, 64), np.float32)
        k, v = (rng.standard_normal((2, keys, 64), np.float32) for _ in range(2))
        s = q.astype(np.float64) @ k.transpose(0, 2, 1) * 0.125
        p = np.exp(s - s.max(-1, keepdims=True))
        exact = p @ v / p.sum(-1, keepdims=True)
        assert largest_error(run(done.vmfb, "main", q, k, v), exact) <= TINY["f32"]


@needs_device
@pytest.mark.parametrize("k_transposed", [False, True])
def test_long_keys_of_any_layout(k_transposed):
    """Mesa's lavapipe ends long loops without a word; these fit."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, rows, 200) for rows in (16, 4100, 4100))
    module = Transposed() if k_transposed else Attention()
    given = (q, k.transpose(-1, -2).contiguous() if k_transposed else k, v)
    done = compile_module(exported(module, *given), flags=FLAGS)
    assert [site["matched"] for site in done.sites] == [True], done.sites
    exact = sdpa(q.double(), k.double(), v.double()).numpy()
    got = run(done.vmfb, "main", *(x.numpy() for x in given))
    assert largest_error(got, exact) <= TINY["f32"]


@needs_device
def test_keys_too_many_for_a_device_are_refused():
    """Of lavapipe's loops; elsewhere the result is right."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, rows, 8) for rows in (16, 60_000, 60_000))
    done = compile_module(exported(Attention(), q, k, v), flags=FLAGS)
    assert [site["matched"] for site in done.sites] == [True], done.sites
    arrays = q.numpy(), k.numpy(), v.numpy()
    if spirv_device.query("vulkan.device", "subgroup_size") < 16:
        with pytest.raises(RuntimeError, match="does not support any variant of executable"):
            run(done.vmfb, "main", *arrays)
    else:
        exact = sdpa(q.double(), k.double(), v.double()).numpy()
        assert largest_error(run(done.vmfb, "main", *arrays), exact) <= TINY["f32"]


@needs_device
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_multihead_attention_returns_its_weights(dynamic):
    """torch.nn.MultiheadAttention as it is called by default, which stock IREE cannot compile."""
    torch.manual_seed(0)
    module = SelfAttention().eval()
    x = torch.randn(2, 37, 64)
    sizes = {"x": {1: torch.export.Dim("length", min=2, max=512)}} if dynamic else None
    done = compile_module(exported(module, x, dynamic_shapes=sizes), flags=FLAGS)
    assert [(site["matched"], site["weights"]) for site in done.sites] == [(True, True)], done.sites
    out, weights = run_all(done.vmfb, "main", x.numpy())
    with torch.no_grad():
        exact = [y.numpy() for y in module.double()(x.double())]
    assert largest_error(out, exact[0]) <= TINY["f32"]
    assert largest_error(weights, exact[1]) <= TINY["f32"]


@needs_device
def test_a_bias_that_has_to_be_built():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 16) for n in (37, 41, 41))
    given = (q, k, v, torch.rand(3), torch.randn(37, 41))
    done = compile_module(exported(SumOfBiases(), *given), flags=FLAGS)
    assert [site["matched"] for site in done.sites] == [True], done.sites
    got = run(done.vmfb, "main", *(x.numpy() for x in given))
    exact = SumOfBiases()(*(x.double() for x in given))
    assert largest_error(got, exact.numpy()) <= TINY["f32"]


@needs_device
@pytest.mark.parametrize("rows", [37, 1], ids=["prefill", "decode"])
def test_log_sum_exp(rows):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 16) for n in (rows, 1000, 1000))
    done = compile_module(exported(LogSumExp(), q, k, v), flags=FLAGS)
    assert [(site["matched"], site["lse"]) for site in done.sites] == [(True, True)], done.sites
    got = run_all(done.vmfb, "main", q.numpy(), k.numpy(), v.numpy())
    exact = LogSumExp()(q.double(), k.double(), v.double())
    for ours, wanted in zip(got, exact, strict=True):
        assert largest_error(ours, wanted.numpy()) <= TINY["f32"] * 4


def test_stock_compiles_no_attention(attention_mlir):
    """Why a declined site is an error on Vulkan, as the report says."""
    with pytest.raises(CompileError):
        compile_module(attention_mlir, flags=FLAGS, plugin=False)


def test_the_report_of_a_declined_site_says_so(tmp_path):
    q = torch.zeros(1, 2, 16, 300)
    report = tmp_path / "report.json"
    with pytest.raises(CompileError):
        compile_module(
            exported(Attention(), q, q, q),
            flags=FLAGS,
            options={"IREE_FLASHATTN_REPORT": str(report)},
        )
    (site,) = json.loads(report.read_text())["sites"]
    assert "serves head dims up to 256, the site has 300 and 300" in site["reason"]
    assert "the compilation will fail" in site["reason"]


def test_a_generic_module_carries_kernels_for_any_device(attention_mlir):
    done = compile_module(attention_mlir, flags=FLAGS)
    (site,) = done.sites
    assert site["matched"]
    assert b"fa_forward_f32_packed_d256" in done.vmfb


def test_a_target_with_matrices_gets_them():
    q = torch.zeros(1, 2, 128, 128, dtype=torch.float16)
    source = exported(Attention(), q, q, q)
    generic = compile_module(source, flags=FLAGS)
    ampere = compile_module(source, flags=(*FLAGS, "--iree-vulkan-target=ampere"))
    assert ampere.sites[0]["kernel"] == "fa_forward_f16_matrix_d128"
    assert b"fa_forward_f16_matrix_d128" not in generic.vmfb
    assert b"fa_forward_f16_tile_d128" in ampere.vmfb  # for devices without matrices


@needs_device
def test_a_clean_runtime_runs_the_module(attention_mlir, runtime_environment, tmp_path):
    """Deployment: nothing but iree-base-runtime, which knows nothing of the plugin."""
    done = compile_module(attention_mlir, flags=FLAGS)
    (tmp_path / "attention.vmfb").write_bytes(done.vmfb)
    rng = np.random.default_rng()
    q, k, v = (rng.standard_normal((2, 160, 32), np.float32) for _ in range(3))
    for name, array in zip("qkv", (q, k, v), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    result = runtime_environment.run(
        runtime_environment.python,
        *("-m", "iree._runtime.scripts.iree_run_module"),
        *("--device=vulkan", f"--module={tmp_path / 'attention.vmfb'}", "--function=attention"),
        *(f"--input=@{tmp_path / name}.npy" for name in "qkv"),
        f"--output=@{tmp_path / 'o.npy'}",
    )
    assert result.returncode == 0, result.stderr
    s = q.astype(np.float64) @ k.transpose(0, 2, 1) * 0.125
    p = np.exp(s - s.max(-1, keepdims=True))
    exact = p @ v / p.sum(-1, keepdims=True)
    assert largest_error(np.load(tmp_path / "o.npy"), exact) <= TINY["f32"]
