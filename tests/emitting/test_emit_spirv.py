"""Vulkan variants in the IR: conditions, formats, order."""

from __future__ import annotations

import re

VULKAN = (
    '#hal.device.target<"vulkan", [#hal.executable.target<"vulkan-spirv", "{format}",'
    ' {{iree_codegen.target_info = #iree_gpu.target<arch = "generic", features = "", wgp ='
    " <compute = fp32|int32, storage = b32, subgroup = none, subgroup_size_choices = [64],"
    " max_workgroup_sizes = [128, 128, 64], max_thread_count_per_workgroup = 128,"
    " max_workgroup_memory_bytes = 16384, max_workgroup_counts = [65535, 65535, 65535]>>}}>]>"
)


def vulkan_module(bench, form: str = "vulkan-spirv-fb", **sizes):
    text = str(bench.attention(**sizes))
    text = re.sub(r"^#(executable_target|device_target)\w+ = .*\n", "", text, flags=re.MULTILINE)
    device = f"util.global private @device = {VULKAN.format(format=form)} : !hal.device"
    return bench.parse(re.sub(r"util.global private @device = .*", lambda _: device, text))


def test_rows_in_order_each_with_its_condition(bench):
    module = vulkan_module(bench)
    report = bench.substitute(module)
    assert [(s.matched, s.kernel) for s in report.sites] == [
        (True, "fa_forward_f32_lane8_units_d64")
    ]
    bench.check(
        module,
        """
CHECK: hal.executable private @fa_forward_f32_lane8_units_d64
CHECK: hal.executable.variant public @vulkan_spirv_fb target
CHECK-SAME: <{path = "/kernels/fa_forward_f32_lane8_units_d64.spv"}>
CHECK: hal.executable.condition
CHECK: key("vulkan.feature" :: "storage_buffer_8bit_access")
CHECK: key("vulkan.feature" :: "shader_int64")
CHECK: key("vulkan.device" :: "subgroup_size")
CHECK: hal.executable.export public @fa_forward_f32_lane8_units_d64 ordinal(0)
CHECK: hal.executable.variant public @vulkan_spirv_fb_1 target
CHECK-SAME: objects([#hal.executable.object<{path = "/kernels/fa_forward_f32_lane8_d64.spv"}>])
CHECK: hal.executable.variant public @vulkan_spirv_fb_2 target
CHECK-SAME: objects([#hal.executable.object<{path = "/kernels/fa_forward_f32_lane4_d64.spv"}>])
CHECK: hal.executable.variant public @vulkan_spirv_fb_3 target
CHECK-SAME: objects([#hal.executable.object<{path = "/kernels/fa_forward_f32_tile_d64.spv"}>])
CHECK: hal.executable.condition
CHECK: hal.executable.variant public @vulkan_spirv_fb_4 target
CHECK-SAME: objects([#hal.executable.object<{path = "/kernels/fa_forward_f32_packed_d256.spv"}>])
CHECK-NOT: hal.executable.condition
CHECK: hal.executable.export public @fa_forward_f32_packed_d256 ordinal(0)
CHECK: flow.dispatch {@fa_forward_f32_lane8_units_d64::@vulkan_spirv_fb::@{{.*}}_units_d64,
""",
    )


def test_buffer_addresses_are_not_for_external_modules(bench):
    module = vulkan_module(bench, "vulkan-spirv-bda-v1")
    bench.substitute(module)
    assert "vulkan-spirv-bda-v1" not in str(module.body.operations[0])
    assert '"vulkan-spirv-fb"' in str(module)


def test_operands_of_unknown_size_are_checked_against_a_binding(bench):
    sizes = {"q": "?x?x64xf32", "k": "?x?x64xf32", "v": "?x?x64xf32", "out": "?x?x64xf32"}
    module = vulkan_module(bench, **sizes)
    bench.substitute(module)
    bench.check(
        module,
        """
CHECK: %[[LIMIT:.*]] = arith.constant 1073741823 : index
CHECK: arith.cmpi sle, {{.*}}, %[[LIMIT]] : index
CHECK-NEXT: cf.assert {{.*}}"iree-flashattn: Q takes over 4 GiB
CHECK-DAG: cf.assert {{.*}}"iree-flashattn: K takes over 4 GiB
CHECK-DAG: cf.assert {{.*}}"iree-flashattn: V takes over 4 GiB
CHECK-DAG: cf.assert {{.*}}"iree-flashattn: O takes over 4 GiB
""",
    )


def test_few_rows_are_split_and_merged(bench):
    module = vulkan_module(
        bench, q="8x1x64xf32", k="8x4096x64xf32", v="8x4096x64xf32", out="8x1x64xf32"
    )
    report = bench.substitute(module)
    assert report.sites[0].kernel == "fa_partial_f32_team8_d64"
    text = str(module)
    assert text.count("flow.dispatch {") + text.count("flow.dispatch @") == 2
    assert "fa_combine_f32_packed.spv" in text
