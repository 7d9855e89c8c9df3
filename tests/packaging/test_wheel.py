"""What the wheel is: its tag, its parts, and that its libraries need neither Python nor LLVM."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_tag_names_no_python_version(wheel: Path) -> None:
    assert re.fullmatch(r"iree_flashattn-[\d.]+-py3-none-\w+\.whl", wheel.name)


def test_everything_lies_in_the_package_but_the_start_up_file(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"iree_flashattn", "iree_flashattn.pth"}


def test_every_cpu_and_spirv_row_has_its_file(wheel: Path, names: list[str]) -> None:
    from iree_flashattn import catalog

    for backend, suffix in (("cpu", ".o"), ("spirv", ".spv")):
        rows = catalog.kernels(backend)
        assert rows, backend
        for row in rows:
            assert f"iree_flashattn/_native/{backend}/{row.name}{suffix}" in names


def test_libraries_need_only_the_system_and_the_compiler(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        libraries = [
            archive.extract(name, tmp_path) for name in archive.namelist() if name.endswith(".so")
        ]
    assert libraries
    allowed = r"libIREECompiler|libstdc\+\+|libgcc_s|libc|libm|ld-linux-\w+"
    for library in libraries:
        needed = subprocess.run(
            ["readelf", "-d", library], capture_output=True, text=True, check=True
        ).stdout
        for name in re.findall(r"\(NEEDED\).*\[(.*)\]", needed):
            assert re.match(rf"({allowed})(-\w+)?\.so", name), (library, name)
        assert "RUNPATH" not in needed
        assert "RPATH" not in needed
