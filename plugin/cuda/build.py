"""Compiles the CUDA kernels: ``python plugin/cuda/build.py --out DIR [--only SUBSTRING]``.

Writes one module image for every row of kernels.toml: DIR/<name>.cubin, machine code, for kernels
that run on one architecture only (sm_90a), and DIR/<name>.ptx, which the driver compiles when it
loads it, for the others. PTX is stamped with the ISA version that the instructions need, because a
driver refuses PTX newer than itself.

The compiler is an nvcc 12.3 or later on the PATH, or that of PyPI's ``nvidia-cuda-nvcc`` in this
Python. Without one it writes nothing, says so and ends with status 0: a package without CUDA
kernels is a package (``--require`` makes that an error).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PTX_VERSION = "7.4"  # the L2 prefetch hint of cp.async is the newest thing that sm_80 code uses


class BuildError(RuntimeError):
    """A row does not compile, or its code lacks an instruction it is made of."""


def catalog_module():
    """The catalog module, without importing its package (the build has no IREE)."""
    path = ROOT / "python" / "iree_flashattn" / "catalog.py"
    spec = importlib.util.spec_from_file_location("flashattn_catalog", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def find_nvcc() -> Path | None:
    """nvcc of the PATH, or of the PyPI package ``nvidia-cuda-nvcc`` in this Python."""
    if found := shutil.which("nvcc"):
        return Path(found)
    for base in map(Path, sys.path):
        for found in sorted(base.glob("nvidia/*/bin/nvcc")):
            return found
    return None


def defines(kernel) -> list[str]:
    """The macros of a row; kernels/cuda tests compile the same sources for the host with them."""
    return [
        f"FA_NAME={kernel.name}",
        f"FA_ELEMENT={kernel.element.upper()}",
        f"FA_Q_TILE={kernel.q_tile}",
        f"FA_KV_TILE={kernel.kv_tile}",
        f"FA_WORKGROUP={kernel.workgroup[0]}",
        f"FA_SHARED_BYTES={kernel.scratch_bytes}",
        *(f"FA_{define}" for define in kernel.defines),
    ]


def image_name(kernel) -> str:
    """The file that serves the row: machine code where it is for one architecture only."""
    return f"{kernel.name}.{'cubin' if kernel.target.get('only') else 'ptx'}"


def include_flags() -> list[str]:
    return [f"-I{HERE / 'src'}", f"-I{ROOT / 'plugin' / 'abi'}"]


def compile_row(kernel, nvcc: Path, out: Path) -> Path:
    """Builds one row and returns its image. Raises BuildError with the compiler's words."""
    sm = kernel.target["sm"]
    image = out / image_name(kernel)
    partial = image.with_suffix(f".tmp{image.suffix}")
    common = [
        *(str(nvcc), "-std=c++17", "-O3", *include_flags(), *kernel.flags),
        *(f"-D{define}" for define in defines(kernel)),
        str(HERE / "src" / kernel.source),
    ]
    if kernel.target.get("only"):
        arch = f"-gencode=arch=compute_{sm}a,code=sm_{sm}a"
        warnings = _run(kernel, [*common, arch, "-Xptxas", "-v", "-cubin", "-o", str(partial)])
        _refuse_slow_code(kernel, warnings)
    else:
        arch = f"-gencode=arch=compute_{sm},code=compute_{sm}"
        _run(kernel, [*common, arch, "-ptx", "-o", str(partial)])
        text = partial.read_text(encoding="utf-8")
        text = re.sub(r"^\.version \S+", f".version {PTX_VERSION}", text, flags=re.MULTILINE)
        partial.write_text(text, encoding="utf-8")
        check = partial.with_suffix(".cubin")
        _run(kernel, [str(nvcc), f"-arch=sm_{sm}", "-cubin", "-o", str(check), str(partial)])
        check.unlink()
    partial.replace(image)
    return image


def _run(kernel, command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{kernel.name}: {' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def _refuse_slow_code(kernel, messages: str) -> None:
    """The assembler only warns when it gives up on asynchronous products or on register shares."""
    for line in messages.splitlines():
        if re.search(r"C75(08|10|14)|serialized|setmaxnreg.*ignored", line):
            raise BuildError(f"{kernel.name}: {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for module images")
    parser.add_argument("--only", default="", help="build only names with this substring")
    parser.add_argument("--require", action="store_true", help="fail without nvcc")
    parser.add_argument("--table", type=Path, default=HERE / "kernels.toml", help="rows to build")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    nvcc = find_nvcc()
    if nvcc is None:
        print(
            "iree-flashattn: no nvcc on the PATH (or `pip install nvidia-cuda-nvcc==13.0.*`);"
            " the package is built without CUDA kernels",
            file=sys.stderr,
        )
        return 1 if options.require else 0
    sources = [*(HERE / "src").iterdir(), options.table, Path(__file__)]
    sources.append(ROOT / "plugin" / "abi" / "flashattn_abi.h")
    newest = max(path.stat().st_mtime for path in sources)

    def build(kernel) -> str | None:
        image = options.out / image_name(kernel)
        if image.exists() and image.stat().st_mtime > newest:
            return None
        try:
            compile_row(kernel, nvcc, options.out)
        except BuildError as error:
            return str(error)
        return None

    rows = catalog_module().load_table("cuda", options.table)
    with ThreadPoolExecutor(options.jobs) as pool:
        errors = [e for e in pool.map(build, [k for k in rows if options.only in k.name]) if e]
    for error in errors:
        print(error, file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
