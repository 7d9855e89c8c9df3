"""What the Vulkan rows ask of a target, and what is left for the device to answer."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from iree_flashattn import catalog
from iree_flashattn.choosing import spirv
from iree_flashattn.extent import Extent
from iree_flashattn.site import View
from iree_flashattn.target import parse_target

GENERIC = parse_target(
    '#hal.executable.target<"vulkan-spirv", "vulkan-spirv-fb", {iree_codegen.target_info ='
    ' #iree_gpu.target<arch = "vp_android_baseline_2022", features = "spirv:v1.3,cap:Shader", wgp ='
    " <compute = fp32|int32, storage = b32, subgroup = none, subgroup_size_choices = [64],"
    " max_workgroup_sizes = [128, 128, 64], max_thread_count_per_workgroup = 128,"
    " max_workgroup_memory_bytes = 16384, max_workgroup_counts = [65535, 65535, 65535]>>}>"
)
AMPERE = parse_target(
    '#hal.executable.target<"vulkan-spirv", "vulkan-spirv-fb", {iree_codegen.target_info ='
    ' #iree_gpu.target<arch = "sm_80", features = "spirv:v1.6,cap:Shader", wgp = <compute ='
    " fp64|fp32|fp16|int64|int32|int16|int8, storage = b64|b32|b16|b8, subgroup ="
    " shuffle|arithmetic, mma = [<NV_MMA_SYNC_F32_16x8x16_F16>, <NV_MMA_SYNC_F32_16x8x16_BF16>,"
    " <NV_WMMA_F32_16x16x16_F16>], subgroup_size_choices = [32], max_workgroup_sizes = [1024, 1024,"
    " 1024], max_thread_count_per_workgroup = 1024, max_workgroup_memory_bytes = 166912>>}>"
)
MATRIX = catalog.find("fa_forward_f16_matrix_d128")
LANE = catalog.find("fa_forward_f16_lane8_d64")
TILE = catalog.find("fa_forward_f16_tile_d64")
WIDER_TILE = catalog.find("fa_forward_f16_tile_d128")
PACKED = catalog.find("fa_forward_f16_packed_d256")


def test_matrices_have_to_be_promised_by_the_target():
    assert "matrices of 16x16x16" in spirv.missing(MATRIX, GENERIC)
    assert spirv.missing(MATRIX, AMPERE) == ""


def test_bf16_matrices_are_a_promise_of_their_own():
    row = catalog.find("fa_forward_bf16_matrix_d128")
    turing = parse_target(re.sub(r", <NV_MMA_SYNC_F32_16x8x16_BF16>", "", AMPERE.attribute))
    assert spirv.missing(row, AMPERE) == ""
    assert "bf16 matrices" in spirv.missing(row, turing)


def test_limits_of_the_target():
    small = parse_target(AMPERE.attribute.replace("166912", "32768"))
    assert "36864 bytes of memory" in spirv.missing(MATRIX, small)
    narrow = parse_target(AMPERE.attribute.replace("per_workgroup = 1024", "per_workgroup = 64"))
    assert "128 threads" in spirv.missing(TILE, narrow)


def test_a_generic_target_leaves_the_types_to_the_device():
    keys = {key for _, key, _ in spirv.device_checks(TILE, GENERIC)}
    assert keys == set(TILE.target["device"])
    assert spirv.decided_at_run_time(TILE, GENERIC)


def test_a_named_gpu_answers_for_its_types():
    assert spirv.device_checks(TILE, AMPERE) == []
    assert not spirv.decided_at_run_time(TILE, AMPERE)


def test_subgroup_sizes_are_always_asked():
    assert ("vulkan.device", "subgroup_size", (8,)) in spirv.device_checks(LANE, AMPERE)


@pytest.mark.parametrize(
    ("row", "keys", "asked"),
    [(TILE, 2500, None), (PACKED, 2501, (16, 32, 64, 128)), (TILE, None, None),
     (LANE, 50_000, (8,)), (LANE, None, (8,))],
)  # fmt: skip
def test_long_keys_ask_for_more_lanes_than_software_devices_have(row, keys, asked):
    site = SimpleNamespace(kv_len=Extent.symbol("n") if keys is None else Extent(keys))
    checks = spirv.device_checks(spirv.narrowed(row, site), AMPERE)
    found = {key: values for _, key, values in checks}
    assert found.get("subgroup_size") == asked


def test_a_row_for_few_lanes_declines_long_keys():
    site = SimpleNamespace(kv_len=Extent(50_001))
    assert spirv.refuses(LANE, site) == "is for 50000 keys at most, the site has 50001"


UNITS = catalog.find("fa_forward_f16_lane8_units_d64")


def whole_site(k_strides=(64 * 8, 64, 64, 1), offset=0, dk=64, bias=None):
    """K as given, everything else whole."""
    whole = View(None, "f16", tuple(map(Extent, (512, 64, 64, 1))))
    k = View(None, "f16", tuple(map(Extent.of, k_strides)), Extent.of(offset))
    sizes = {name: Extent(8) for name in ("batch", "heads", "kv_heads", "q_len", "kv_len")}
    return SimpleNamespace(
        q=whole, k=k, v=whole, out=whole, mask=None, bias=bias, weights=None, dk=Extent(dk),
        dv=Extent(64), **sizes,
    )  # fmt: skip


N = Extent.symbol("n")


@pytest.mark.parametrize(
    ("changed", "served"),
    [
        ({}, True),
        ({"k_strides": (N * 64, N * 4, 64, 1)}, True),
        ({"k_strides": (N * 64, N, 64, 1)}, False),
        ({"k_strides": (512, 64, 66, 1)}, False),
        ({"k_strides": (512, 64, 1, 8)}, False),
        ({"offset": 4}, True),
        ({"offset": N * 8 + 2}, False),
        ({"dk": 62}, False),
    ],
)
def test_units_have_to_be_whole(changed, served):
    """Units of 8 bytes are four elements of f16, wherever a row begins."""
    reason = spirv.refuses(UNITS, whole_site(**changed))
    assert reason == (None if served else "the rows of K may not be whole units of 8 bytes")


@pytest.mark.parametrize(("shape", "served"), [((3, 6), True), ((3, 5), False), ((N, 6), True)])
def test_a_tensor_that_is_still_to_be_built_has_to_be_whole_words_too(shape, served):
    """A bias that is the sum of two tensors, say: it has sizes, but no value of the module."""
    bias = View(SimpleNamespace(shape=shape), "f16", tuple(map(Extent, (0, 0, 0, 1))))
    reason = spirv.refuses(PACKED, whole_site(bias=bias))
    assert reason == (None if served else "the bytes of bias may not be a multiple of 4")


def test_nothing_is_asked_for_the_last_row():
    assert spirv.device_checks(PACKED, GENERIC) == []


@pytest.mark.parametrize(
    ("better", "row", "expected"),
    [(TILE, WIDER_TILE, True), (LANE, TILE, False), (TILE, LANE, True), (TILE, PACKED, False)],
)
def test_a_row_behind_one_that_asks_no_more_is_dead(better, row, expected):
    assert spirv.shadows(better, row, GENERIC) is expected


def test_every_chain_ends_with_a_row_for_any_device():
    for element in catalog.ELEMENTS:
        for role in ("forward", "partial", "combine"):
            rows = [r for r in catalog.kernels("spirv") if (r.element, r.role) == (element, role)]
            assert not spirv.decided_at_run_time(rows[-1], GENERIC)
