"""Whole modules on a GPU: compiled on one machine, run by the stock IREE runtime on another.

    python tests/kernels/cuda/carried.py compile FOLDER          needs the compiler, no GPU
    python tests/kernels/cuda/carried.py run FOLDER              needs the runtime and a GPU

Compiling writes a module for each problem and spelling, with the plugin, and refuses to go on where
the plugin left a site to stock code. Running feeds fresh random inputs and compares with float64.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "python"))

from iree_flashattn import operands  # noqa: E402
from iree_flashattn.problems import Problem, causal, small  # noqa: E402

EPSILON = {"f32": 2.0**-20, "f16": 2.0**-11, "bf16": 2.0**-8}
FLAGS = ("--iree-hal-target-device=cuda", "--iree-cuda-target=sm_80")


def problems() -> list[Problem]:
    """The shared list, and sizes at which each kernel family is at work."""
    P = Problem
    big = P("big", batch=2, heads=8, q_len=1000, kv_len=1000, dk=128)
    listed = [
        *small(),
        big,
        causal(replace(big, name="big_causal")),
        causal(P("gqa_prefill", heads=8, kv_heads=2, q_len=500, kv_len=700, dk=64)),
        P("wide_prefill", heads=4, q_len=300, kv_len=500, dk=256),
        P("masked_prefill", batch=2, heads=4, q_len=300, kv_len=500, dk=128, mask="keep",
          mask_dims="bk"),
        P("decode_split", batch=2, heads=32, kv_heads=8, q_len=1, kv_len=4096, dk=128),
        P("decode_masked", batch=2, heads=8, kv_heads=8, q_len=1, kv_len=2048, dk=64, mask="keep",
          mask_dims="bk"),
        P("wide_masked", heads=4, q_len=300, kv_len=500, dk=256, mask="keep", mask_dims="bk"),
        P("with_weights", batch=2, heads=4, q_len=150, kv_len=261, dk=64, weights=True),
        causal(P("with_weights_128", heads=4, kv_heads=2, q_len=200, kv_len=200, dk=128,
                 weights=True)),
    ]  # fmt: skip
    return [p.with_element(e) for p in listed for e in ("f32", "f16", "bf16")]


# q_len and kv_len that one module with sizes known only at run time is called with.
LENGTHS = ((100, 333), (1, 700), (513, 64), (0, 10), (7, 0))


def dynamic_module() -> str:
    """Attention over any number of queries and keys, f16."""
    kind = "tensor<2x4x?x64xf16>"
    maps = ", ".join(
        f"affine_map<(b, h, m, n, k, s) -> ({dims})>"
        for dims in ("b, h, m, k", "b, h, s, k", "b, h, s, n", "", "b, h, m, n")
    )
    return f"""func.func @attention(%q: {kind}, %k: {kind}, %v: {kind}) -> {kind} {{
  %scale = arith.constant 0.125 : f32
  %axis = arith.constant 2 : index
  %length = tensor.dim %q, %axis : {kind}
  %init = tensor.empty(%length) : {kind}
  %r = iree_linalg_ext.attention <indexing_maps = [{maps}]>
    ins(%q, %k, %v, %scale : {kind}, {kind}, {kind}, f32) outs(%init : {kind})
    {{ ^bb0(%s: f32): iree_linalg_ext.yield %s : f32 }} -> {kind}
  return %r : {kind}
}}"""


def compile_all(folder: Path, only: str) -> None:
    from iree_flashattn.bench import modules
    from iree_flashattn.compiling import compile_module

    folder.mkdir(parents=True, exist_ok=True)
    manifest, refused = [], []
    for p in (p for p in problems() if only in p.name):
        plain = replace(p, weights=False)
        if not modules.servable(plain) or max(p.dk, p.dv) > 256 or 0 in (p.q_len, p.kv_len):
            continue
        # Decomposed attention widens to f32, so it says nothing new of the other types.
        spellings = (modules.fused, modules.decomposed)[: 2 if p.element == "f32" else 1]
        for spelling in (modules.decomposed,) if p.weights else spellings:
            name = f"{p.name}_{spelling.__name__}"
            done = compile_module(spelling(p), FLAGS)
            if not done.sites or not all(site["matched"] for site in done.sites):
                refused.append(f"{name}: {[site['reason'] for site in done.sites]}")
                continue
            (folder / f"{name}.vmfb").write_bytes(done.vmfb)
            # A plain softmax over nothing but -inf is NaN.
            meant = replace(p, empty_row_nan=spelling is modules.decomposed)
            manifest.append(
                {"name": name, "kernel": done.sites[0]["kernel"], "problem": asdict(meant)}
            )
    done = compile_module(dynamic_module(), FLAGS)
    assert done.sites[0]["matched"], done.sites[0]["reason"]
    for q_len, kv_len in LENGTHS:
        name = f"dynamic_{q_len}_{kv_len}"
        p = Problem(name, batch=2, heads=4, q_len=q_len, kv_len=kv_len, dk=64, element="f16")
        (folder / f"{name}.vmfb").write_bytes(done.vmfb)
        manifest.append({"name": name, "kernel": done.sites[0]["kernel"], "problem": asdict(p)})
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    print(f"{len(manifest)} modules, {len(refused)} left to stock code", *refused, sep="\n  ")


class Runtime:
    """The stock runtime on one device."""

    def __init__(self, device: str) -> None:
        import iree.runtime as rt

        self.rt = rt
        self.device = rt.get_device(device)
        self.instance = rt.VmInstance()
        self.hal = rt.create_hal_module(self.instance, self.device)

    def function(self, vmfb: Path):
        rt = self.rt
        module = rt.VmModule.copy_buffer(self.instance, vmfb.read_bytes())
        context = rt.VmContext(self.instance, modules=[self.hal, module])
        entry = module.lookup_function("attention")

        def call(arguments: list):
            inputs, results = rt.VmVariantList(len(arguments)), rt.VmVariantList(2)
            for argument in arguments:
                inputs.push_ref(argument)
            context.invoke(entry, inputs, results)
            return [results.get_as_object(i, rt.HalBufferView) for i in range(len(results))]

        return call

    def upload(self, array: np.ndarray, element: str):
        rt = self.rt
        kinds = rt.HalElementType
        kind = {"f16": kinds.FLOAT_16, "bf16": kinds.BFLOAT_16, "f32": kinds.FLOAT_32,
                "i1": kinds.BOOL_8}[element]  # fmt: skip
        return self.device.allocator.allocate_buffer_copy(
            rt.MemoryType.DEVICE_LOCAL, rt.BufferUsage.DEFAULT, self.device,
            np.ascontiguousarray(array), element_type=kind,
        )  # fmt: skip

    def download(self, view, storage: np.dtype) -> np.ndarray:
        rt = self.rt
        if 0 in view.shape:  # the runtime cannot map an empty buffer
            return np.zeros(view.shape, storage)
        bits = {2: rt.HalElementType.UINT_16, 4: rt.HalElementType.UINT_32}[storage.itemsize]
        raw = rt.HalBufferView(buffer=view.get_buffer(), shape=view.shape, element_type=bits)
        return np.array(rt.DeviceArray(self.device, raw).to_host()).view(storage)


def run_one(runtime: Runtime, vmfb: Path, p: Problem) -> str | None:
    """What is wrong with the module's result, or None."""
    made = operands.make(p, seed=zlib.crc32(p.name.encode()))
    arguments = [runtime.upload(x.view(), p.element) for x in (made.q, made.k, made.v)]
    if made.mask is not None:
        made.mask = (made.mask != 0).astype(np.uint8)
        arguments.append(runtime.upload(made.mask, "i1"))
    if made.bias is not None:
        kind = "f32" if p.bias == "f32" else p.element
        arguments.append(runtime.upload(made.bias, kind))
    results = runtime.function(vmfb)(arguments)
    wanted = made.reference()
    for result, want in zip(results, (wanted.out, wanted.weights), strict=False):
        got = runtime.download(result, operands.STORAGE[p.element])
        if complaint := compare(operands.from_storage(got, p.element), want, p.element):
            return complaint
    return None


def compare(got: np.ndarray, want: np.ndarray, element: str) -> str | None:
    if not np.array_equal(np.isnan(got), np.isnan(want)):
        return f"{np.isnan(got).sum()} NaN, expected {np.isnan(want).sum()}"
    error = np.nanmax(np.abs(got - want), initial=0.0)
    limit = 3 * EPSILON[element] * max(1.0, np.nanmax(np.abs(want), initial=0.0))
    return None if error <= limit else f"error {error:.2e}, limit {limit:.2e}"


def run_all(folder: Path, device: str) -> int:
    runtime = Runtime(device)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    wrong = 0
    for entry in manifest:
        problem = Problem(**entry["problem"])
        if complaint := run_one(runtime, folder / f"{entry['name']}.vmfb", problem):
            wrong += 1
            print(f"WRONG {entry['name']} ({entry['kernel']}): {complaint}")
    print(f"{len(manifest) - wrong} of {len(manifest)} modules right on {device}")
    return 1 if wrong or not manifest else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("compile", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="compile problems with this in their name")
    options = parser.parse_args()
    if options.what == "compile":
        compile_all(options.folder, options.only)
        return 0
    return run_all(options.folder, options.device)


if __name__ == "__main__":
    sys.exit(main())
