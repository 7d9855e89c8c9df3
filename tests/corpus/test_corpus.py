"""Every site of the corpus is substituted, no look-alike is, and results are right."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import iree.runtime as rt
import numpy as np
import pytest
from iree.compiler import ir

from iree_flashattn.compiling import compile_module
from iree_flashattn.raising import raise_sites
from iree_flashattn.refusal import Refusal

HERE = Path(__file__).parent
TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "bf16": 4e-2}
# Twists that are attention and are declined all the same: docs/recognition.md says why.
DECLINED = {
    "near_jax_scan_divided", "near_linalg_max_bcast_swapped", "near_linalg_min_instead_of_max",
    "near_p_row_scale", "near_p_row_scale_square", "near_qk_product_of_scores",
    "near_s_shared_two_softmax", "near_score_gelu", "near_score_roll", "near_score_rownorm",
    "near_scores_concat_order",
}  # fmt: skip


def table() -> list[dict[str, str]]:
    with (HERE / "models.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def archived(name: str) -> list[str]:
    with tarfile.open(HERE / name) as archive:
        return sorted(m.name.removeprefix("./") for m in archive.getmembers())


WHOLE = sorted({n.split("/")[0] for n in archived("models.tar.xz")} - {"", "."})


def preprocessed() -> Iterator[tuple[str, str]]:
    with tarfile.open(HERE / "preprocessed.tar.xz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            yield Path(member.name).stem, file.read().decode()


def test_sites_are_found_and_look_alikes_are_not(record_property: Callable) -> None:
    rows = {row["model"]: row for row in table()}
    seen, found, counted = set(), 0, 0
    missed, wrong = [], []
    for name, text in preprocessed():
        seen.add(name)
        row = rows[name]
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            raised = raise_sites(ir.Module.parse(text))
        sites = sum(not isinstance(r, Refusal) for r in raised)
        expected = int(row["sites"])
        if row["kind"] == "attention":
            found, counted = found + sites, counted + expected
        if sites > expected or (row["kind"] == "lookalike" and sites):
            wrong.append(f"{name}: {sites} sites, a person counts {expected}")
        if sites < expected and name not in DECLINED:
            missed.append(f"{name}: {[str(r) for r in raised]}")
        if name in DECLINED and sites == expected:
            missed.append(f"{name} is served now: take it off the list")
    sentence = f"corpus: {found} of {counted} attention sites, {len(wrong)} look-alikes"
    record_property("summary", sentence)
    assert seen == set(rows)
    assert not wrong, wrong
    assert not missed, missed
    assert found == counted


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    with tarfile.open(HERE / "models.tar.xz") as archive:
        # Early releases of Python 3.11, Debian's among them, have no filters and no such argument.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("name", WHOLE)
def test_results_are_right(name: str, models: Path) -> None:
    folder = models / name
    facts = json.loads((folder / "meta.json").read_text())
    compiled = compile_module(folder / "model.mlir", options={"IREE_FLASHATTN_GATE": "off"})
    served = [site for site in compiled.sites if site["matched"]]
    assert len(served) == facts["sites"], compiled.sites
    outputs = _run(compiled.vmfb, facts["entry"], folder)
    for number, got in enumerate(outputs):
        wanted = np.load(folder / f"output_{number}.npy")
        _compare(got, wanted, TOLERANCE[facts["dtype"]])


def _run(vmfb: bytes, entry: str, folder: Path) -> list[rt.DeviceArray]:
    config = rt.Config("local-sync")
    instance, device = config.vm_instance, config.device
    modules = [rt.create_hal_module(instance, device)]
    if (folder / "params.irpa").exists():
        parameters = rt.ParameterIndex()
        parameters.load(str(folder / "params.irpa"))
        provider = parameters.create_provider(scope="model")
        modules.append(rt.create_io_parameters_module(instance, provider))
    modules.append(rt.VmModule.copy_buffer(instance, vmfb))
    context = rt.SystemContext(vm_modules=modules, config=config)
    module = list(context.modules.values())[-1]
    inputs = []
    for number in range(len(list(folder.glob("input_*.npy")))):
        array = np.load(folder / f"input_{number}.npy")
        inputs.append(_bf16(array, device) if array.dtype == np.uint16 else array)
    outputs = module[entry](*inputs)
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def _bf16(bits: np.ndarray, device: rt.HalDevice) -> rt.HalBufferView:
    return device.allocator.allocate_buffer_copy(
        memory_type=rt.MemoryType.DEVICE_LOCAL, allowed_usage=rt.BufferUsage.DEFAULT,
        device=device, buffer=np.ascontiguousarray(bits),
        element_type=rt.HalElementType.BFLOAT_16,
    )  # fmt: skip


def _compare(got: rt.DeviceArray, wanted: np.ndarray, tolerance: float) -> None:
    if wanted.dtype == np.uint16:
        bits = got._buffer_view.map().asarray(wanted.shape, np.dtype(np.uint16))
        value, wanted = (
            (x.astype(np.uint32) << 16).view(np.float32) for x in (np.asarray(bits), wanted)
        )
    else:
        value = got.to_host()
    value, wanted = value.astype(np.float64), wanted.astype(np.float64)
    assert value.shape == wanted.shape
    for kind in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(kind(value), kind(wanted))
    finite = np.isfinite(wanted)
    if finite.any():
        error = np.abs(value - wanted)[finite].max() / max(1.0, np.abs(wanted[finite]).max())
        assert error <= tolerance
