"""Compiles the Vulkan kernels: ``python plugin/spirv/build.py --out DIR [--only SUBSTRING]``.

Writes DIR/<name>.spv, a SPIR-V module with one entry point of the row's name, for every row of
kernels.toml. Without a shader compiler it writes nothing, says what is missing and ends with
status 0: a package without Vulkan kernels is a package (``--require`` makes that an error).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import slangc

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def _catalog():
    """The catalog module, without importing its package (the build has no IREE)."""
    path = ROOT / "python" / "iree_flashattn" / "catalog.py"
    spec = importlib.util.spec_from_file_location("flashattn_catalog", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def compiler_arguments(kernel) -> list[str]:
    """slangc's command line for one row. IREE's driver asks for Vulkan 1.3, hence SPIR-V 1.6."""
    defines = {
        "FA_ENTRY": kernel.name,
        f"FA_{kernel.element.upper()}": "1",
        f"FA_ROLE_{kernel.role.upper()}": "1",
        "FA_Q_TILE": str(kernel.q_tile),
        "FA_KV_TILE": str(kernel.kv_tile),
        "FA_HEAD_DIM": str(kernel.head_dim.max),
        **dict([*d.split("=", 1), "1"][:2] for d in kernel.defines),
    }
    return [
        *(str(HERE / kernel.source), "-I", str(ROOT / "plugin" / "abi"), "-I", str(HERE)),
        *("-target", "spirv", "-profile", "spirv_1_6", "-O3", "-fvk-use-entrypoint-name"),
        *("-entry", kernel.name, "-stage", "compute", "-warnings-disable", "39001,41012"),
        *(f"-D{name}={value}" for name, value in defines.items()),
        *kernel.flags,
    ]


def build(arguments: list[str], path: Path) -> None:
    """Compiles and validates one row. Raises RuntimeError naming the row."""
    module = slangc.compile_shader(arguments)
    if not slangc.is_valid(module):
        raise RuntimeError(f"{path.stem}: the SPIR-V validator refuses the module")
    path.write_bytes(module)


def build_all(kernels: list, out: Path) -> None:
    """Compiles rows in as many processes as there are cores; one row takes seconds of one core."""
    count = min(os.cpu_count() or 1, len(kernels))
    with ProcessPoolExecutor(max(count, 1)) as pool:
        jobs = [pool.submit(build, compiler_arguments(k), out / f"{k.name}.spv") for k in kernels]
        try:
            for job in jobs:  # in the table's order, so that the same row's error is told each time
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for <name>.spv")
    parser.add_argument("--only", default="", help="build only names with this substring")
    parser.add_argument("--require", action="store_true", help="fail without a shader compiler")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        kernels = _catalog().load_table("spirv", HERE / "kernels.toml")
        build_all([k for k in kernels if options.only in k.name], options.out)
    except slangc.MissingCompilerError as missing:
        print(f"iree-flashattn: {missing}", file=sys.stderr)
        return 1 if options.require else 0
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
