"""What emission puts into a module for CUDA: variants, conditions, launch properties."""

# ruff: noqa: E501 - a CHECK pattern is one line

from __future__ import annotations

import pytest
from iree.compiler import ir

MODULE = """module {{
  util.global private @device = #hal.device.target<"cuda", [#hal.executable.target<"cuda",
    "cuda-nvptx-fb", {{iree_codegen.target_info = #iree_gpu.target<arch = "sm_{sm}", features = "",
    wgp = <compute = fp32, storage = b32, subgroup = none, subgroup_size_choices = [32],
    max_workgroup_sizes = [1024, 1024, 1024], max_thread_count_per_workgroup = 1024,
    max_workgroup_memory_bytes = 65536, max_workgroup_counts = [2147483647, 65535, 65535]>>}}>]>
    : !hal.device
  util.func public @main(%q: tensor<{q}>, %k: tensor<{k}>, %v: tensor<{k}>) -> tensor<{q}> {{
    %scale = arith.constant 0.125 : f32
    %init = tensor.empty() : tensor<{q}>
    %r = iree_linalg_ext.attention <indexing_maps = [
      affine_map<(b, m, n, k, s) -> (b, m, k)>, affine_map<(b, m, n, k, s) -> (b, s, k)>,
      affine_map<(b, m, n, k, s) -> (b, s, n)>, affine_map<(b, m, n, k, s) -> ()>,
      affine_map<(b, m, n, k, s) -> (b, m, n)>]>
      ins(%q, %k, %v, %scale : tensor<{q}>, tensor<{k}>, tensor<{k}>, f32)
      outs(%init : tensor<{q}>) {{ ^bb0(%s: f32): iree_linalg_ext.yield %s : f32 }} -> tensor<{q}>
    util.return %r : tensor<{q}>
  }}
}}"""


def module(bench, q: str, k: str, sm: int = 80) -> ir.Module:
    return bench.parse(MODULE.format(q=q, k=k, sm=sm))


def test_hopper_kernel_with_a_fallback(bench) -> None:
    """A module for sm_80 asks the device, and takes the Hopper kernel where it can run."""
    made = module(bench, "16x2048x128xbf16", "16x2048x128xbf16")
    report = bench.substitute(made)
    assert [(s.matched, s.kernel) for s in report.sites] == [(True, "fa_forward_bf16_sm90a_d128")]
    bench.check(
        made,
        """
CHECK: hal.executable private @fa_forward_bf16_sm90a_d128 {
CHECK: hal.executable.variant public @cuda_nvptx_fb target({{.*}}) objects([#hal.executable.object<{path = "{{.*}}/fa_forward_bf16_sm90a_d128.cubin"}>])
CHECK: hal.executable.condition(%[[DEVICE:.*]]: !hal.device) -> i1 {
CHECK: %[[OK:.*]], %[[MAJOR:.*]] = hal.device.query<%[[DEVICE]] : !hal.device> key("cuda.device" :: "compute_capability_major") : i1, i32
CHECK: %[[NINE:.*]] = arith.constant 9 : i32
CHECK: %[[SAME:.*]] = arith.cmpi eq, %[[MAJOR]], %[[NINE]] : i32
CHECK: arith.andi %[[OK]], %[[SAME]] : i1
CHECK: hal.executable.export public @fa_forward_bf16_sm90a_d128 ordinal(0)
CHECK: arith.constant 192 : index
CHECK: %[[EMPTY:.*]] = arith.cmpi eq, %[[BLOCKS:.*]], %{{.*}} : index
CHECK: %[[X:.*]] = arith.select %[[EMPTY]], %{{.*}}, %[[BLOCKS]] : index
CHECK: %[[Y:.*]] = arith.select %[[EMPTY]], %{{.*}}, %{{.*}} : index
CHECK: hal.return %[[X]], %[[Y]], %{{.*}} : index, index, index
CHECK: hal.executable.variant public @cuda_nvptx_fb_1 target({{.*}}) objects([#hal.executable.object<{path = "{{.*}}/fa_forward_bf16_sm80_d128.ptx"}>])
CHECK-NOT: hal.executable.condition
CHECK: hal.executable.export public @fa_forward_bf16_sm80_d128 ordinal(0)
CHECK: flow.dispatch {@fa_forward_bf16_sm90a_d128::@cuda_nvptx_fb::@fa_forward_bf16_sm90a_d128, @fa_forward_bf16_sm90a_d128::@cuda_nvptx_fb_1::@fa_forward_bf16_sm80_d128}
""",
    )
    # The custom form of the export leaves these properties out.
    generic = made.operation.get_asm(print_generic_op_form=True)
    exports = [line for line in generic.splitlines() if '"hal.executable.export"' in line]
    hopper = next(line for line in exports if "fa_forward_bf16_sm90a_d128" in line)
    assert "workgroup_local_memory = 173424 : index" in hopper
    assert "workgroup_size = [512 : index, 1 : index, 1 : index]" in hopper


def test_decode_is_split(bench) -> None:
    """Few query rows: a partial dispatch and a combine dispatch, for every GPU from sm_80 on."""
    made = module(bench, "8x1x128xf16", "8x8192x128xf16")
    report = bench.substitute(made)
    assert report.sites[0].kernel == "fa_partial_f16_sm80_d128"
    bench.check(
        made,
        """
CHECK: hal.executable private @fa_combine_f16_sm80
CHECK: hal.executable private @fa_partial_f16_sm80_d128
CHECK-NOT: hal.executable.condition
CHECK: %[[PARTIAL:.*]]:2 = flow.dispatch @fa_partial_f16_sm80_d128::
CHECK-SAME: -> (tensor<{{[0-9]+}}x1x8x1x128xf32>, tensor<{{[0-9]+}}x1x8x1x2xf32>)
CHECK: flow.dispatch @fa_combine_f16_sm80::{{.*}}%[[PARTIAL]]#0, %[[PARTIAL]]#1
CHECK-SAME: -> tensor<8x1x128xf16>
""",
    )


@pytest.mark.parametrize(
    ("sm", "q", "said"),
    [
        (75, "4x64x64xf16", "--iree-cuda-target=sm_80"),
        (80, "4x64x512xf16", "head dims"),
    ],
)
def test_declined(bench, sm: int, q: str, said: str) -> None:
    """Too old a GPU, or too wide a head: stock code stays, and the report says what to do."""
    made = module(bench, q, q, sm)
    before = str(made)
    report = bench.substitute(made)
    assert not report.sites[0].matched
    assert said in report.sites[0].reason
    assert str(made) == before
