"""The kernel tables: what they say, what they refuse, and the problem list that goes with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from iree_flashattn import catalog, problems
from iree_flashattn.choosing import splitting

ROW = """
[[kernel]]
name = "fa_forward_{element}_x"
role = "forward"
element = ["f32", "bf16"]
target = { arch = "x86_64" }
features = ["mask", "gqa"]
head_dim = { max = 64, multiple_of = 8 }
q_tile = 32
kv_tile = 64
grid = ["packed_blocks", "kv_heads", "batch*splits"]
source = "x.cc"
"""


def load(tmp_path: Path, text: str) -> list[catalog.Kernel]:
    path = tmp_path / "kernels.toml"
    path.write_text(text, encoding="utf-8")
    return catalog.load_table("cpu", path)


def test_a_row_stands_for_one_kernel_an_element(tmp_path):
    kernels = load(tmp_path, ROW)
    assert [k.name for k in kernels] == ["fa_forward_f32_x", "fa_forward_bf16_x"]
    assert [k.element for k in kernels] == ["f32", "bf16"]


def test_grid(tmp_path):
    kernel = load(tmp_path, ROW)[0]
    sizes = {"batch": 3, "heads": 8, "kv_heads": 2, "q_len": 50, "splits": 5}
    assert kernel.grid_size(sizes) == (7, 2, 15)  # 50 * 4 rows in tiles of 32


def test_head_dims(tmp_path):
    dims = load(tmp_path, ROW)[0].head_dim
    assert dims.serves(64, 8)
    assert not dims.serves(72, 64)
    assert not dims.serves(64, 12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('role = "forward"', 'role = "backward"', "role = 'backward'"),
        ('"gqa"', '"gqqa"', "unknown: gqqa"),
        ('"kv_heads"', '"kv_headz"', "'kv_headz' is neither"),
        ("q_tile = 32", "q_tile = 0", "must be positive"),
        ("q_tile = 32", "", "q_tile = None"),
        ('"f32", "bf16"', '"f32", "f64"', "element = 'f64'"),
        ('"fa_forward_{element}_x"', '"fa_forward_x"', "two rows are named fa_forward_x"),
        ('role = "forward"', 'role = "partial"', "combine = None is no row"),
        ("kv_tile = 64", "kv_tile = ", "kernels.toml: Invalid value"),
    ],
)
def test_bad_rows_are_named(tmp_path, old, new, message):
    assert old in ROW
    with pytest.raises(catalog.CatalogError, match=message):
        load(tmp_path, ROW.replace(old, new))


def test_every_table_loads():
    for backend in catalog.BACKENDS:
        for kernel in catalog.kernels(backend):
            assert catalog.find(kernel.name) == kernel


def test_fallbacks_fit_into_the_modules_of_their_row():
    """The runtime extension calls them with the row's grid, bindings and scratch memory."""
    rows = {kernel.name: kernel for kernel in catalog.kernels("cpu")}
    found = [kernel for kernel in rows.values() if "fallback" in kernel.extra]
    assert found
    for kernel in found:
        assert kernel.extra["link"] == "plugin"
        for name in kernel.extra["fallback"]:
            other = rows[name]
            assert (other.role, other.element) == (kernel.role, kernel.element)
            assert other.grid == kernel.grid
            assert kernel.q_tile % other.q_tile == 0
            assert other.scratch_bytes <= kernel.scratch_bytes
            assert other.features >= kernel.features
            assert other.head_dim == kernel.head_dim
        assert rows[kernel.extra["fallback"][-1]].target["features"] == []  # any machine runs it


def test_splits_depend_on_the_shape_alone():
    kernel = catalog.find("fa_partial_f32_avx512")

    def ranges(batch: int, heads: int, kv_heads: int, q_len: int, kv_len: int | None) -> int:
        return splitting.key_ranges(
            kernel, batch=batch, heads=heads, kv_heads=kv_heads, q_len=q_len, kv_len=kv_len
        )

    assert ranges(1, 8, 2, 1, 16384) == 8
    assert ranges(1, 1, 1, 1, 4096) == 16
    assert ranges(1, 1, 1, 1, 65536) == 32  # many keys: finer
    assert ranges(1, 32, 32, 1, 4096) == 2
    assert ranges(1, 32, 32, 1, 2048) == 1
    assert ranges(1, 1, 1, 1, None) == 16
    assert ranges(8, 32, 32, 1, 65536) == 1  # tasks enough
    assert ranges(1, 8, 8, 4096, 4096) == 1  # not a decode
    assert ranges(1, 1, 1, 1, 500) == 1  # too short to cut
    assert ranges(0, 1, 1, 1, 500) == 1


def test_problem_names_are_unique():
    names = [p.name for p in problems.small() + problems.benchmark()]
    assert len(names) == len(set(names))
    with pytest.raises(KeyError):
        problems.find("no such problem")


def test_problem_arithmetic():
    square = problems.Problem("p", batch=2, heads=3, q_len=10, kv_len=10, dk=4, dv=8)
    assert square.pairs == 600
    assert problems.causal(square).pairs == 6 * 55
    assert problems.causal(square, window=2).pairs == 6 * 19
    assert problems.causal(square).flops == 2 * 6 * 55 * 12
    wide = problems.causal(problems.Problem("p", q_len=3, kv_len=5), align="bottom-right")
    assert wide.band_hi == 2
    with pytest.raises(ValueError, match="3 heads over 2 kv heads"):
        problems.Problem("p", heads=3, kv_heads=2)


def test_small_problems_cover_every_feature():
    covered = frozenset().union(*(p.features for p in problems.small()))
    assert covered == catalog.FEATURES - {"dynamic"}
