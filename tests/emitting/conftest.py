"""Golden tests of emission: sites described by hand, so that raising is not involved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filecheck.matcher import Matcher
from filecheck.options import Options as FileCheckOptions
from iree.compiler import ir
from iree.compiler.dialects import arith, tensor

from iree_flashattn import resources
from iree_flashattn.choosing import Options
from iree_flashattn.extent import Extent
from iree_flashattn.raising.index import Index
from iree_flashattn.report import Report
from iree_flashattn.rewrite import substitute
from iree_flashattn.site import AttentionSite, View

AVX512 = "+avx2,+fma,+f16c,+avx512f,+avx512bw,+avx512dq,+avx512vl"
Change = Callable[[AttentionSite], None]


def _size(value: ir.Value, axis: int) -> Extent:
    kind = ir.RankedTensorType(value.type)
    if not kind.is_dynamic_dim(axis):
        return Extent(kind.get_dim_size(axis))
    index = arith.ConstantOp(ir.IndexType.get(), axis)
    return Extent.symbol(tensor.DimOp(value, index.result).result)


def site_of(op: ir.Operation) -> AttentionSite:
    """An ``iree_linalg_ext.attention`` on [batch, rows, dim] operands, with batch as heads."""
    q, k, v, scale = list(op.operands)[:4]
    with op.context, ir.InsertionPoint(op), op.location:
        heads, rows, dk = (_size(q, axis) for axis in range(3))
        keys, dv = _size(k, 1), _size(v, 2)
    one = Extent(1)
    dtype = [str(ir.RankedTensorType(x.type).element_type) for x in (q, k, v, op.results[0])]

    def view(value: ir.Value, name: str, length: Extent, columns: Extent) -> View:
        # Sizes known only at run time go to the batch, of which any number is served.
        strides = (Extent(0), length * columns, columns, one)
        if heads.static is None:
            strides = (length * columns, Extent(0), columns, one)
        return View(value, name, strides)

    dynamic = heads.static is None
    return AttentionSite(
        anchor=op,
        location=f"{op.location}",
        q=view(q, dtype[0], rows, dk),
        k=view(k, dtype[1], keys, dk),
        v=view(v, dtype[2], keys, dv),
        out=view(op.results[0], dtype[3], rows, dv),
        batch=heads if dynamic else one,
        heads=one if dynamic else heads,
        kv_heads=one if dynamic else heads,
        q_len=rows,
        kv_len=keys,
        dk=dk,
        dv=dv,
        scale=scale,
        spelling="by hand",
    )


class Bench:
    """Parses modules, substitutes every attention op in them and checks the text."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path

    def attention(
        self,
        q: str = "8x128x64xf32",
        k: str = "8x256x64xf32",
        v: str = "8x256x32xf32",
        out: str = "8x128x32xf32",
        features: str = AVX512,
        times: int = 1,
        attributes: str = "",
        extra: str = "",
        lse: str = "",
    ) -> ir.Module:
        """A module at the end of preprocessing with ``times`` attention ops on one set of inputs.

        Dynamic sizes of the result are read from Q. ``lse``: type of one more result, a filled
        tensor that stands for the LSE.
        """
        calls, sizes = [], []
        for axis, size in enumerate(out.split("x")[:-1]):
            if size == "?":
                sizes.append(f"%dim{axis}")
                calls.append(f"%axis{axis} = arith.constant {axis} : index")
                calls.append(f"%dim{axis} = tensor.dim %q, %axis{axis} : tensor<{q}>")
        calls.append(f"%init = tensor.empty({', '.join(sizes)}) : tensor<{out}>")
        maps = ", ".join(
            f"affine_map<(b, m, n, k, s) -> ({dims})>"
            for dims in ("b, m, k", "b, s, k", "b, s, n", "", "b, m, n")
        )
        for i in range(times):
            calls.append(
                f"%r{i} = iree_linalg_ext.attention <indexing_maps = [{maps}]> {attributes}"
                f" ins(%q, %k, %v, %scale : tensor<{q}>, tensor<{k}>, tensor<{v}>, f32)"
                f" outs(%init : tensor<{out}>) {{ ^bb0(%s: f32): iree_linalg_ext.yield %s : f32 }}"
                f" -> tensor<{out}>"
            )
        results = [f"%r{i}" for i in range(times)]
        kinds = [f"tensor<{out}>"] * times
        if lse:
            kinds.append(f"tensor<{lse}>")
            results.append("%lse")
            calls.append(f"%lse_init = tensor.empty() : tensor<{lse}>")
            calls.append(
                f"%lse = linalg.fill ins(%scale : f32) outs(%lse_init : tensor<{lse}>)"
                f" -> tensor<{lse}>"
            )
        types = ", ".join(kinds)
        lines = "\n    ".join(calls)
        return self.parse(
            f"""module {{
  util.global private @device = #hal.device.target<"local", [#hal.executable.target<"llvm-cpu",
    "embedded-elf-x86_64", {{cpu_features = "{features}"}}>]> : !hal.device
  {extra}
  util.func public @main(%q: tensor<{q}>, %k: tensor<{k}>, %v: tensor<{v}>) -> ({types}) {{
    %scale = arith.constant 0.125 : f32
    {lines}
    util.return {", ".join(results)} : {types}
  }}
}}"""
        )

    def parse(self, text: str) -> ir.Module:
        return ir.Module.parse(text, ir.Context())

    def substitute(
        self, module: ir.Module, change: Change = lambda site: None, options: Options | None = None
    ) -> Report:
        sites = []

        def visit(op: ir.Operation) -> ir.WalkResult:
            if op.name == "iree_linalg_ext.attention":
                sites.append(site_of(op))
                change(sites[-1])
            return ir.WalkResult.ADVANCE

        module.operation.walk(visit)
        report = substitute(module, sites, options or Options(gate=False), Index(module))
        assert module.operation.verify()
        return report

    def check(self, module: ir.Module, checks: str) -> None:
        """FileCheck over the module's text, attribute aliases not used."""
        text, patterns = self.tmp_path / "module.mlir", self.tmp_path / "checks.txt"
        text.write_text(str(module), encoding="utf-8")
        patterns.write_text(checks, encoding="utf-8")
        options = FileCheckOptions(match_filename=str(patterns), input_file=str(text))
        assert Matcher.from_opts(options).run() == 0, str(module)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Kernel files are named, not read: these tests need no built kernels."""
    monkeypatch.setattr(resources, "kernel_file", lambda backend, name: Path("/kernels") / name)
    return Bench(tmp_path)
