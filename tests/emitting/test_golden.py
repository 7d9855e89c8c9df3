"""What emission puts into a module, and what it leaves alone."""

# ruff: noqa: E501 - a CHECK pattern is one line

from __future__ import annotations

import dataclasses
import math
import struct

import pytest
from iree.compiler import ir

from iree_flashattn import catalog
from iree_flashattn.abi import FLAG, WORD, WORD_COUNT
from iree_flashattn.choosing import Options
from iree_flashattn.extent import Extent
from iree_flashattn.site import Band, View


def constants(module: ir.Module, dispatch: int = 0) -> list[int | None]:
    """The 32 words of a dispatch as unsigned ints; None where known only at run time."""
    found = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name == "flow.dispatch":
            found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    segments = list(ir.DenseI32ArrayAttr(found[dispatch].attributes["operandSegmentSizes"]))
    words = list(found[dispatch].operands)[segments[0] : segments[0] + WORD_COUNT]
    values = []
    for word in words:
        owner = word.owner
        if isinstance(owner, ir.Block) or owner.operation.name != "arith.constant":
            values.append(None)
        else:
            values.append(ir.IntegerAttr(owner.attributes["value"]).value & 0xFFFFFFFF)
    return values


def word(module: ir.Module, name: str) -> int | None:
    return constants(module)[WORD[name]]


def bits(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]


def test_forward(bench) -> None:
    module = bench.attention()
    report = bench.substitute(module)
    assert [(s.matched, s.kernel) for s in report.sites] == [(True, "fa_forward_f32_avx512")]
    bench.check(
        module,
        """
CHECK: hal.executable private @fa_forward_f32_avx512 {
CHECK: hal.executable.variant public @embedded_elf_x86_64 target({{.*}}) objects([#hal.executable.object<{path = "/kernels/fa_forward_f32_avx512.o"}>])
CHECK: hal.executable.export public @fa_forward_f32_avx512_dispatch ordinal(0)
CHECK: count(%{{.*}}: !hal.device, %[[ROWS:.*]]: index, %[[HEADS:.*]]: index, %[[KV:.*]]: index, %[[BATCH:.*]]: index, %{{.*}}: index)
CHECK: %[[ALL:.*]] = arith.muli %[[ROWS]], %[[HEADS]]
CHECK: %[[PACKED:.*]] = arith.divui %[[ALL]], %[[KV]]
CHECK: %[[BLOCKS:.*]] = arith.ceildivui %[[PACKED]]
CHECK: hal.return %[[BLOCKS]], %[[KV]], %[[BATCH]]
CHECK: workgroup_local_memory = 458752
CHECK: llvm.func @fa_forward_f32_avx512(!llvm.ptr, {{.*}}) attributes {hal.import.static}
CHECK: llvm.func @fa_forward_f32_avx512_dispatch(%[[ENVIRONMENT:.*]]: !llvm.ptr, %[[DISPATCH:.*]]: !llvm.ptr, %[[WORKGROUP:.*]]: !llvm.ptr) -> i32
CHECK: llvm.getelementptr %[[DISPATCH]][24]
CHECK-NOT: %[[ENVIRONMENT]]
CHECK: llvm.call @fa_forward_f32_avx512(
CHECK: util.func public @main(%[[Q:.*]]: tensor<8x128x64xf32>, %[[K:.*]]: tensor<8x256x64xf32>, %[[V:.*]]: tensor<8x256x32xf32>)
CHECK-NOT: iree_linalg_ext.attention
CHECK-NOT: cf.assert
CHECK: %[[O:.*]] = flow.dispatch @fa_forward_f32_avx512::@embedded_elf_x86_64::@fa_forward_f32_avx512_dispatch[%{{.*}}](%{{.*}}, %[[Q]], %[[K]], %[[V]], %[[Q]], %[[Q]], %[[Q]], %[[Q]])
CHECK-SAME: -> tensor<8x128x32xf32>
CHECK-NEXT: util.return %[[O]]
""",
    )


def test_words_of_a_plain_site(bench) -> None:
    module = bench.attention()
    bench.substitute(module, lambda site: setattr(site, "scale", 0.375))
    expected = dict.fromkeys(WORD.keys() - {"COUNT"}, 0) | {
        "Q_LEN": 128,
        "KV_LEN": 256,
        "HEADS": 8 | 8 << 16,
        "HEAD_DIMS": 64 | 32 << 16,
        "SCALE": bits(0.375),
        "FILL": bits(-math.inf),
        "Q_STRIDE_H": 128 * 64,
        "Q_STRIDE_X": 64,
        "K_STRIDE_H": 256 * 64,
        "K_STRIDE_X": 64,
        "V_STRIDE_H": 256 * 32,
        "V_STRIDE_X": 32,
        "O_STRIDE_H": 128 * 32,
        "O_STRIDE_X": 32,
        "SPLITS": 1,
    }
    values = constants(module)
    assert {name: values[WORD[name]] for name in expected} == expected


def test_scale_that_f32_cannot_hold(bench) -> None:
    module = bench.attention()
    bench.substitute(module, lambda site: setattr(site, "scale", -1e39))
    assert word(module, "SCALE") == bits(-math.inf)


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({"band": Band(hi=Extent(-3))}, "BAND_HI"),
        ({"band": Band(lo=Extent(-7), hi=Extent(0))}, "BAND_LO BAND_HI"),
        ({"softcap": 30.0}, "SOFTCAP"),
        ({"empty_row": "nan"}, "EMPTY_ROW_NAN"),
    ],
)
def test_flags(bench, changes: dict, flags: str) -> None:
    module = bench.attention()
    bench.substitute(module, lambda site: [setattr(site, *item) for item in changes.items()])
    assert word(module, "FLAGS") == sum(FLAG[name] for name in flags.split())
    if "softcap" in changes:
        assert word(module, "SOFTCAP") == bits(30.0)
    if "band" in changes:
        assert word(module, "BAND_HI") == int(changes["band"].hi) & 0xFFFFFFFF


def test_transposed_k(bench) -> None:
    """K as [head, dim, key]: the rows are contiguous, so X strides over columns."""
    module = bench.attention(k="8x64x64xf32", v="8x64x32xf32")

    def transpose(site) -> None:
        site.k = dataclasses.replace(site.k, strides=tuple(Extent(s) for s in (0, 4096, 1, 64)))

    bench.substitute(module, transpose)
    assert word(module, "FLAGS") == FLAG["K_TRANSPOSED"]
    assert word(module, "K_STRIDE_X") == 64


def operand(module: ir.Module, kind: str) -> ir.Value:
    """A function argument of that type."""
    for op in module.body.operations:
        if op.operation.name == "util.func":
            for argument in op.regions[0].blocks[0].arguments:
                if str(argument.type) == kind:
                    return argument
    raise AssertionError(f"no argument of type {kind}")


def with_mask(module: ir.Module, drops: bool):
    """K stands in for a mask of the same element count; only its view matters here."""

    def change(site) -> None:
        strides = tuple(Extent(s) for s in (0, 0, 64, 1))
        site.mask = View(operand(module, "tensor<8x256x64xf32>"), "i8", strides)
        site.mask_drops = drops

    return change


@pytest.mark.parametrize("drops", [False, True])
def test_mask_is_bound_in_its_place(bench, drops: bool) -> None:
    module = bench.attention(q="8x16x64xf32", out="8x16x32xf32")
    bench.substitute(module, with_mask(module, drops))
    assert word(module, "FLAGS") == FLAG["MASK"] | (FLAG["MASK_DROP"] if drops else 0)
    assert [word(module, f"MASK_STRIDE_{x}") for x in "BHX"] == [0, 0, 64]
    bench.check(
        module,
        """
CHECK: util.func public @main(%[[Q:.*]]: tensor<8x16x64xf32>, %[[K:.*]]: tensor<8x256x64xf32>, %[[V:.*]]: tensor
CHECK: flow.dispatch {{.*}}%[[Q]], %[[K]], %[[V]], %[[K]], %[[Q]], %[[Q]], %[[Q]])
""",
    )


def test_split_keys(bench) -> None:
    module = bench.attention("1x1x64xf32", "1x1024x64xf32", "1x1024x32xf32", "1x1x32xf32")
    bench.substitute(module)
    bench.check(
        module,
        """
CHECK-DAG: hal.executable private @fa_partial_f32_avx512 {
CHECK-DAG: hal.executable private @fa_combine_f32_avx512 {
CHECK: util.func public @main(%[[Q:[a-z0-9]*]]:
CHECK: %[[P:.*]]:2 = flow.dispatch @fa_partial_f32_avx512::
CHECK-SAME: -> (tensor<4x1x1x1x32xf32>, tensor<4x1x1x1x2xf32>)
CHECK: %[[O:.*]] = flow.dispatch @fa_combine_f32_avx512::{{.*}}, %[[P]]#0, %[[P]]#1, %[[Q]], %[[P]]#0)
CHECK-SAME: -> tensor<1x1x32xf32>
CHECK: util.return %[[O]]
""",
    )
    assert word(module, "SPLITS") == 4


def with_lse(module: ir.Module):
    """The filled tensor stands for the LSE."""

    def change(site) -> None:
        for op in site.anchor.block.operations:
            if op.operation.name == "linalg.fill":
                strides = tuple(Extent(n) for n in (0, int(site.q_len), 1, 0))
                site.lse, site.lse_empty = View(op.operation.results[0], "f32", strides), "nan"

    return change


def test_lse_is_written_in_place(bench) -> None:
    module = bench.attention(lse="8x128xf32")
    report = bench.substitute(module, with_lse(module))
    assert report.sites[0].description["lse"] is True
    assert word(module, "FLAGS") == FLAG["LSE"] | FLAG["LSE_NAN"]
    bench.check(
        module,
        """
CHECK: "ReadOnly|Indirect">, #hal.pipeline.binding<storage_buffer, Indirect>, #hal.pipeline.binding<storage_buffer, Indirect>]
CHECK: hal.executable private @fa_forward_f32_avx512_lse {
CHECK: util.func public @main(%[[Q:.*]]: tensor<8x128x64xf32>, %[[K:.*]]: tensor<8x256x64xf32>, %[[V:.*]]: tensor<8x256x32xf32>)
CHECK: %[[EMPTY:.*]] = tensor.empty() : tensor<8x128xf32>
CHECK: %[[O:.*]]:2 = flow.dispatch @fa_forward_f32_avx512_lse::{{.*}}, %[[Q]], %[[K]], %[[V]], %[[Q]], %[[Q]], %[[Q]], %[[EMPTY]])
CHECK-SAME: -> (tensor<8x128x32xf32>, %[[EMPTY]])
CHECK-NOT: linalg.fill
CHECK: util.return %[[O]]#0, %[[O]]#1
""",
    )


def test_lse_of_split_keys(bench) -> None:
    shapes = ("1x1x64xf32", "1x1024x64xf32", "1x1024x32xf32", "1x1x32xf32")
    module = bench.attention(*shapes, lse="1x1x1xf32")
    bench.substitute(module, with_lse(module))
    bench.check(
        module,
        """
CHECK: %[[EMPTY:.*]] = tensor.empty() : tensor<1x1x1xf32>
CHECK: %[[P:.*]]:2 = flow.dispatch @fa_partial_f32_avx512::
CHECK: %[[O:.*]]:2 = flow.dispatch @fa_combine_f32_avx512_lse::{{.*}}, %[[P]]#0, %[[P]]#1, %{{.*}}, %[[EMPTY]])
CHECK: util.return %[[O]]#0, %[[O]]#1
""",
    )


def test_lse_that_no_kernel_writes(bench, monkeypatch) -> None:
    """The site is served without it, and the trail says why."""
    rows = [
        dataclasses.replace(row, features=row.features - {"lse"}) for row in catalog.kernels("cpu")
    ]
    monkeypatch.setattr(catalog, "kernels", lambda backend: rows)
    module = bench.attention(lse="8x128xf32")
    report = bench.substitute(module, with_lse(module))
    (site,) = report.sites
    assert site.matched
    assert site.description["lse"] is False
    assert site.trail[0].startswith("LSE is left to stock code: no kernel serves it: ")
    assert "linalg.fill" in str(module)


def test_sites_share_an_executable(bench) -> None:
    module = bench.attention(times=5)
    assert bench.substitute(module).matched == 5
    text = str(module)
    assert text.count("hal.executable private") == 1
    assert text.count("flow.dispatch @") == 5


def test_a_second_run_finds_nothing(bench) -> None:
    module = bench.attention(times=2)
    bench.substitute(module)
    once = str(module)
    assert bench.substitute(module).sites == []
    assert str(module) == once


def test_symbol_that_is_taken(bench) -> None:
    module = bench.attention(extra="util.global private @fa_forward_f32_avx512 = 1 : i32")
    bench.substitute(module)
    bench.check(
        module,
        """
CHECK: hal.executable private @fa_forward_f32_avx512_1 {
CHECK: flow.dispatch @fa_forward_f32_avx512_1::@embedded_elf_x86_64::
""",
    )


def test_run_time_sizes_are_checked_on_the_host(bench) -> None:
    module = bench.attention("?x?x64xf32", "?x?x64xf32", "?x?x32xf32", "?x?x32xf32")
    bench.substitute(module)
    bench.check(
        module,
        """
CHECK: util.func public @main(%[[Q:.*]]: tensor<?x?x64xf32>, %[[K:.*]]: tensor<?x?x64xf32>, %[[V:.*]]: tensor
CHECK-DAG: cf.assert {{.*}}"iree-flashattn: Q has more than
CHECK-DAG: cf.assert {{.*}}"iree-flashattn: K is smaller than
CHECK-DAG: cf.assert {{.*}}"iree-flashattn: V is smaller than
CHECK-DAG: cf.assert {{.*}}"iree-flashattn: batch times
CHECK: flow.dispatch {{.*}} -> tensor<?x?x32xf32>{
""",
    )


def test_static_view_outside_of_its_tensor_is_refused(bench) -> None:
    module = bench.attention()
    before = str(module)

    def longer(site) -> None:
        site.kv_len = Extent(257)

    report = bench.substitute(module, longer)
    (site,) = report.sites
    assert (site.matched, site.rule) == (False, "emit.bounds")
    assert "K" in site.reason
    assert site.subject == f"element {7 * 256 * 64 + 256 * 64 + 63} of {8 * 256 * 64}"
    assert str(module) == before


def test_refused_site_leaves_the_module_alone(bench) -> None:
    module = bench.attention("1x9x2000xf32", "1x9x2000xf32", "1x9x8xf32", "1x9x8xf32")
    before = str(module)
    report = bench.substitute(module)
    assert [(s.matched, s.rule) for s in report.sites] == [(False, "choose.kernel")]
    assert str(module) == before


def test_module_without_a_device_is_left_alone(bench) -> None:
    module = bench.attention()
    for op in module.body.operations:
        if op.operation.name == "util.global":
            op.operation.erase()
            break
    before = str(module)
    (site,) = bench.substitute(module).sites
    assert (site.matched, site.rule) == (False, "target")
    assert str(module) == before


def test_operands_of_different_types_are_converted(bench) -> None:
    module = bench.attention("8x9x64xf16", "8x9x64xf16", "8x9x32xf16", "8x9x32xf32")
    bench.substitute(module)
    bench.check(
        module,
        """
CHECK: util.func public @main
CHECK-COUNT-3: arith.extf %{{.*}} to tensor<8x9x{{.*}}xf32>
CHECK: flow.dispatch @fa_forward_f32_avx512::
""",
    )


def test_placed_op_keeps_its_device(bench) -> None:
    module = bench.attention(attributes="{stream.affinity = #hal.device.affinity<@device>}")
    bench.substitute(module)
    bench.check(
        module, "CHECK: flow.dispatch {{.*}}stream.affinity = #hal.device.affinity<@device>"
    )


def test_kernels_from_the_runtime_extension(bench) -> None:
    module = bench.attention()
    bench.substitute(module, options=Options(gate=False, cpu_link="plugin"))
    text = str(module)
    assert "hal.executable.object" not in text
    assert "hal.import.static" not in text
    bench.check(module, "CHECK: llvm.func @fa_forward_f32_avx512_dispatch(")


def test_amx_from_the_runtime_extension(bench) -> None:
    """Imported by name, with the grid of the row and scratch memory for its fallbacks alone."""
    tiles = "avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512bf16 amx-tile amx-bf16"
    sizes = ("8x128x64xbf16", "8x256x64xbf16", "8x256x32xbf16", "8x128x32xbf16")
    module = bench.attention(*sizes, features=",".join(f"+{x}" for x in tiles.split()))
    bench.substitute(module, options=Options(gate=False, cpu_link="plugin"))
    bench.check(
        module,
        """
CHECK: hal.executable.variant public @embedded_elf_x86_64 target({{.*}}) {
CHECK: arith.constant 576 : index
CHECK: workgroup_local_memory = 245760
CHECK: llvm.func @fa_forward_bf16_amx(!llvm.ptr, {{.*}})
CHECK-NOT: hal.import.static
CHECK-NOT: llvm.cond_br
CHECK: llvm.call @fa_forward_bf16_amx(
CHECK: flow.dispatch @fa_forward_bf16_amx::
""",
    )
