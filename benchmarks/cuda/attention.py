"""Attention on an NVIDIA GPU, side by side in one run: our kernels and PyTorch's SDPA back ends.

    python benchmarks/cuda/attention.py --images build/native/cuda --json out.json [--only prefill]

Device times by events around a few launches, inputs from N(0, 1), contenders interleaved round by
round, medians over the rounds. TFLOP/s count the products inside the causal triangle; GB/s count
each byte of K and V once. The error is that of the first head against float64, relative in the
Euclidean norm.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "python"), str(ROOT / "tests" / "kernels" / "cuda")]

import gpu_driver  # noqa: E402

from iree_flashattn import catalog  # noqa: E402
from iree_flashattn.abi import FLAG, WORD, WORD_COUNT  # noqa: E402
from iree_flashattn.problems import Problem, causal  # noqa: E402

TORCH_TYPE = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
BACKENDS = {
    "torch_cudnn": SDPBackend.CUDNN_ATTENTION,
    "torch_flash": SDPBackend.FLASH_ATTENTION,
    "torch_efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def prefill(element: str, lengths: list[int]) -> list[Problem]:
    """16k tokens in all, 2048 channels, as the FlashAttention papers measure it."""
    rows = []
    for dim, heads in ((128, 16), (64, 32)):
        for length in lengths:
            batch = max(1, 16384 // length)
            p = Problem(f"prefill_{element}_d{dim}_s{length}", batch=batch, heads=heads,
                        q_len=length, kv_len=length, dk=dim, element=element)  # fmt: skip
            rows += [p, causal(p)]
    return rows


def few(element: str) -> list[Problem]:
    """One batch entry of 2048 channels: hardly more query tiles than a GPU takes at once."""
    rows = []
    for dim, heads in ((128, 16), (64, 32)):
        for length in (1024, 2048, 4096):
            p = Problem(f"few_{element}_d{dim}_s{length}", heads=heads, q_len=length,
                        kv_len=length, dk=dim, element=element)  # fmt: skip
            rows += [p, causal(p)]
    return rows


def masked(element: str) -> list[Problem]:
    """A padding mask, one row of keys a batch entry."""
    return [
        Problem(f"masked_{element}_d{dim}_s4096", batch=4, heads=2048 // dim, q_len=4096,
                kv_len=4096, dk=dim, element=element, mask="keep", mask_dims="bk")
        for dim in (256, 128, 64)
    ]  # fmt: skip


def decode(element: str) -> list[Problem]:
    """One query row a head over 0.5 to 1 GB of K and V."""
    shapes = [(16, 32, 8, 16384), (1, 32, 8, 262144), (64, 64, 8, 4096), (4, 32, 32, 16384)]
    rows = [
        Problem(f"decode_{element}_b{b}_h{h}_{kv}_s{s}", batch=b, heads=h, kv_heads=kv, q_len=1,
                kv_len=s, dk=128, element=element)
        for b, h, kv, s in shapes
    ]  # fmt: skip
    padded = replace(rows[0], name=f"{rows[0].name}_masked", mask="keep", mask_dims="bk")
    return [*rows, padded]


def words_of(p: Problem, splits: int) -> np.ndarray:
    """Constants of dense (batch, head, row, column) operands."""
    w = np.zeros(WORD_COUNT, np.uint32)
    w[WORD["FLAGS"]] = FLAG["BAND_HI"] if p.band_hi is not None else 0
    if p.mask:
        w[WORD["FLAGS"]] |= FLAG["MASK"]
        w[WORD["MASK_STRIDE_B"]] = p.kv_len
    w[WORD["BAND_HI"]] = (p.band_hi or 0) & 0xFFFFFFFF
    w[WORD["Q_LEN"]], w[WORD["KV_LEN"]] = p.q_len, p.kv_len
    w[WORD["HEADS"]] = p.heads | p.kv_heads << 16
    w[WORD["HEAD_DIMS"]] = p.dk | p.dv << 16
    w[WORD["SCALE"]] = np.float32(p.effective_scale).view(np.uint32)
    w[WORD["FILL"]] = np.float32(-np.inf).view(np.uint32)
    w[WORD["SPLITS"]] = splits
    for x, heads, rows, dim in (
        ("Q", p.heads, p.q_len, p.dk),
        ("K", p.kv_heads, p.kv_len, p.dk),
        ("V", p.kv_heads, p.kv_len, p.dv),
        ("O", p.heads, p.q_len, p.dv),
    ):
        for axis, stride in zip("BHX", (heads * rows * dim, rows * dim, dim), strict=True):
            w[WORD[f"{x}_STRIDE_{axis}"]] = stride
    return w


class Ours:
    """A forward row, or a partial row with its combine row, on torch tensors."""

    def __init__(self, row: catalog.Kernel, rows: dict[str, catalog.Kernel], images: Path) -> None:
        self.row = row
        self.kernel = gpu_driver.Kernel(row, _image(row, images))
        self.combine = None
        if row.combine:
            self.combine = gpu_driver.Kernel(rows[row.combine], _image(rows[row.combine], images))

    def splits_for(self, p: Problem) -> int:
        """As many key ranges as give two full waves of blocks."""
        tasks = p.batch * p.kv_heads
        return max(1, min(64, -(-132 * 4 // tasks), p.kv_len // 256))

    def bind(self, p: Problem, q, k, v, out, mask) -> Callable[[], None]:
        splits = self.splits_for(p) if self.combine else 1
        constants, sizes = words_of(p, splits), gpu_driver.sizes_of(p, splits)
        stream = torch.cuda.current_stream().cuda_stream
        given = q if mask is None else mask
        inputs = [x.data_ptr() for x in (q, k, v, given, q, q, q)]
        if self.combine is None:
            return lambda: self.kernel.launch(sizes, [*inputs, out.data_ptr()], constants, stream)
        shape = (splits, p.batch, p.heads, p.q_len)
        partial_o = torch.empty((*shape, p.dv), device="cuda", dtype=torch.float32)
        partial_ml = torch.empty((*shape, 2), device="cuda", dtype=torch.float32)
        results = [partial_o.data_ptr(), partial_ml.data_ptr()]

        def launch(keep=(partial_o, partial_ml)) -> None:
            self.kernel.launch(sizes, [*inputs[:6], *results], constants, stream)
            self.combine.launch(sizes, [*results, *inputs[5:], out.data_ptr()], constants, stream)

        return launch


def _image(row: catalog.Kernel, images: Path) -> Path:
    return images / f"{row.name}.{'cubin' if row.target.get('only') else 'ptx'}"


def torch_call(backend: SDPBackend, p: Problem, q, k, v, mask) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        with sdpa_kernel([backend]):
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=p.band_hi is not None, scale=p.effective_scale,
                enable_gqa=p.heads != p.kv_heads,
                attn_mask=mask,
            )  # fmt: skip

    return run


def time_once(run: Callable[[], object], launches: int) -> float:
    """Milliseconds of one launch."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(launches):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / launches


def copy_bandwidth() -> float:
    """GB/s that a large device copy moves, reads and writes together."""
    a = torch.randn(1 << 28, device="cuda")
    b = torch.empty_like(a)
    times = [time_once(lambda: b.copy_(a), 3) for _ in range(10)]
    return 2 * a.nbytes / median(times) / 1e6


def serving(ours: list[Ours], p: Problem) -> list[Ours]:
    """The rows made for the problem's head dim; general ones only where no plain one serves."""
    role = "partial" if p.q_len == 1 else "forward"
    fit = [
        c for c in ours
        if c.row.element == p.element and c.row.role == role and p.features <= c.row.features
        and c.row.head_dim.serves(p.dk, p.dv) and ("weights" in c.row.features) == p.weights
    ]  # fmt: skip
    width = min((c.row.head_dim.max for c in fit), default=0)
    fit = [c for c in fit if c.row.head_dim.max == max(width, p.dk)] or fit
    return [c for c in fit if "general" not in c.row.name] or fit


def reference(p: Problem, q, k, v, mask) -> torch.Tensor:
    """Float64 attention of the first head of the first batch entry."""
    q, k, v = (x[:1, :1].double() for x in (q, k, v))
    scores = (q @ k.mT) * p.effective_scale
    if mask is not None:
        scores = scores.masked_fill(~mask[:1], -torch.inf)
    if p.band_hi is not None:
        keep = torch.ones(p.q_len, p.kv_len, device="cuda", dtype=torch.bool).tril(p.band_hi)
        scores = scores.masked_fill(~keep, -torch.inf)
    return scores.softmax(-1) @ v


def measure(p: Problem, ours: list[Ours], rounds: int) -> dict:
    """Times of every contender that takes the problem."""
    kind = TORCH_TYPE[p.element]
    torch.manual_seed(0)
    q = torch.randn(p.batch, p.heads, p.q_len, p.dk, device="cuda", dtype=kind)
    k = torch.randn(p.batch, p.kv_heads, p.kv_len, p.dk, device="cuda", dtype=kind)
    v = torch.randn(p.batch, p.kv_heads, p.kv_len, p.dv, device="cuda", dtype=kind)
    mask = None
    if p.mask:
        mask = torch.rand(p.batch, 1, 1, p.kv_len, device="cuda") < 0.75
    runs: dict[str, Callable[[], object]] = {}
    outputs: dict[str, torch.Tensor] = {}
    notes: dict[str, str] = {}
    for name, backend in BACKENDS.items():
        wide = None if mask is None else mask.expand(p.batch, 1, p.q_len, p.kv_len)
        run = torch_call(backend, p, q, k, v, wide)
        try:
            outputs[name] = run()
            runs[name] = run
        except RuntimeError as error:
            notes[name] = str(error).splitlines()[0][:80]
    for contender in serving(ours, p):
        row = contender.row
        out = torch.full((p.batch, p.heads, p.q_len, p.dv), float("nan"), device="cuda", dtype=kind)
        runs[row.name] = contender.bind(p, q, k, v, out, mask)
        runs[row.name]()
        outputs[row.name] = out
    torch.cuda.synchronize()
    want = reference(p, q, k, v, mask)
    errors = {n: ((o[:1, :1] - want).norm() / want.norm()).item() for n, o in outputs.items()}
    work = p.flops / 1e9
    bytes_kv = (k.nbytes + v.nbytes) / 1e6
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        time_once(run, 2)
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(time_once(run, 3))
    result = {"problem": p.name + ("_causal" if p.band_hi is not None else ""), "notes": notes}
    for name, values in times.items():
        t = median(values)
        result[name] = {
            "ms": t, "min_ms": min(values), "tflops": work / t, "gbs": bytes_kv / t,
            "error": errors[name],
        }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="where build.py wrote to")
    parser.add_argument("--table", type=Path, default=ROOT / "plugin" / "cuda" / "kernels.toml")
    parser.add_argument("--only", default="", help="problems with this substring")
    parser.add_argument("--element", default="bf16", choices=TORCH_TYPE)
    parser.add_argument("--lengths", type=int, nargs="*", default=[2048, 8192, 16384])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.zeros(1, device="cuda")
    rows = {r.name: r for r in catalog.load_table("cuda", options.table)}
    ours = [
        Ours(row, rows, options.images)
        for row in rows.values()
        if row.role != "combine" and row.element == options.element
        and gpu_driver.why_not(row) is None and _image(row, options.images).exists()
    ]  # fmt: skip
    copy = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, copy {copy:.0f} GB/s, torch {torch.__version__}")
    element = options.element
    problems = prefill(element, options.lengths) + few(element) + masked(element) + decode(element)
    results = [measure(p, ours, options.rounds) for p in problems if options.only in p.name]
    for result in results:
        print(result["problem"], *(f"{k}: {v}" for k, v in result["notes"].items()))
        for name, value in result.items():
            if isinstance(value, dict) and "ms" in value:
                print(f"    {name:40s} {value['ms']:8.3f} ms {value['tflops']:7.1f} TFLOP/s"
                      f" {value['gbs']:7.0f} GB/s  error {value['error']:.1e}")  # fmt: skip
    if options.json:
        data = {"device": torch.cuda.get_device_name(), "copy_gbs": copy, "results": results}
        options.json.write_text(json.dumps(data, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
