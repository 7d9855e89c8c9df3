"""Compiles the CPU kernels: ``python plugin/cpu/build.py --out DIR [--only SUBSTRING] [--jobs N]``.

With ``--runtime DIR2`` it also writes what the runtime plugin links: DIR2/kernels.a, the objects of
this machine's architecture, and DIR2/kernels.inc, which says what an import resolves to.

Writes DIR/<name>.o, an ELF object that IREE links into the executable of a dispatch, for every row
of kernels.toml. The compiler is the clang of the ``ziglang`` package (docs/performance.md has the
comparison with gcc); it cross-compiles, so all instruction sets are built on every machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLAGS = [
    *("-std=c++20", "-O3", "-ffreestanding", "-fno-builtin", "-fPIC", "-fvisibility=hidden"),
    *("-fno-exceptions", "-fno-rtti", "-fno-stack-protector", "-fno-unwind-tables"),
    *("-fno-asynchronous-unwind-tables", "-fomit-frame-pointer", "-ffp-contract=off"),
    *("-fno-sanitize=all", "-g0", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-unused-function"),
    *("-Wno-unused-command-line-argument", "-Wno-unused-parameter"),
]


def _catalog():
    """The catalog module, without importing its package (the build has no IREE)."""
    path = ROOT / "python" / "iree_flashattn" / "catalog.py"
    spec = importlib.util.spec_from_file_location("flashattn_catalog", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def compile_command(kernel, out: Path, *, source: Path | None = None) -> list[str]:
    """The command that builds one row; its instruction set is what the row's target says."""
    arch = kernel.target["arch"]
    cpu = {"x86_64": "x86_64", "aarch64": "generic"}[arch]
    cpu = "".join([cpu, *(f"+{f.replace('-', '_')}" for f in kernel.target.get("features", []))])
    return [
        *(sys.executable, "-m", "ziglang", "c++", "-target", f"{arch}-freestanding-none"),
        *(f"-mcpu={cpu}", *FLAGS, f"-I{ROOT / 'plugin' / 'abi'}", f"-I{HERE}"),
        *(f"-DFA_NAME={kernel.name}", f"-DFA_ROLE_{kernel.role}", f"-DFA_ELEMENT_{kernel.element}"),
        *(f"-DFA_Q_TILE={kernel.q_tile}", f"-DFA_KV_TILE={kernel.kv_tile}"),
        *(f"-DFA_SCRATCH_BYTES={kernel.working_bytes}", *(f"-D{d}" for d in kernel.defines)),
        *(*kernel.flags, "-c", str(source or HERE / kernel.source), "-o", str(out)),
    ]


def condition(kernel) -> str:
    """Whether the machine runs the kernel, as a C expression for the runtime plugin."""
    checks = []
    for feature in kernel.target.get("features", []):
        if feature.startswith("amx-"):
            checks.append("tiles_granted()")
        else:
            checks.append(f'__builtin_cpu_supports("{feature}")')
    return " && ".join(dict.fromkeys(checks)) or "1"


def write_runtime(kernels, objects: Path, out: Path) -> None:
    """The archive and the list of the kernels for this architecture: X(import, kernel, times,
    bytes, runs), where the first line of an import that the machine runs is taken; bytes is the
    scratch memory that it needs instead of the module's, or 0."""
    mine = [k for k in kernels if k.target["arch"] == platform.machine()]
    by_name = {k.name: k for k in mine}
    lines = []
    for kernel in mine:
        for name in (kernel.name, *kernel.extra.get("fallback", ())):
            other = by_name[name]
            times = kernel.q_tile // other.q_tile
            own = other.extra.get("own_scratch_bytes", 0)
            lines.append(f"X({kernel.name}, {name}, {times}, {own}, {condition(other)})")
    out.mkdir(parents=True, exist_ok=True)
    (out / "kernels.inc").write_text("\n".join(lines) + "\n", encoding="utf-8")
    archive = out / "kernels.a"
    archive.unlink(missing_ok=True)
    files = [str(objects / f"{k.name}.o") for k in mine]
    subprocess.run([sys.executable, "-m", "ziglang", "ar", "rcs", str(archive), *files], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for <name>.o")
    parser.add_argument("--only", default="", help="build only names with this substring")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runtime", type=Path, help="directory for the runtime plugin's parts")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kernels = _catalog().load_table("cpu", HERE / "kernels.toml")
    sources = [*HERE.glob("*.h"), *HERE.glob("*.cc"), HERE / "kernels.toml", Path(__file__)]
    sources.append(ROOT / "plugin" / "abi" / "flashattn_abi.h")
    newest = max(path.stat().st_mtime for path in sources)

    def build(kernel) -> str | None:
        target = options.out / f"{kernel.name}.o"
        if target.exists() and target.stat().st_mtime > newest:
            return None
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        result = subprocess.run(compile_command(kernel, partial), capture_output=True, text=True)
        if result.returncode or result.stderr.strip():
            print(f"{kernel.name}:\n{result.stderr}", file=sys.stderr)
        if result.returncode:
            return kernel.name
        partial.replace(target)
        return None

    with ThreadPoolExecutor(options.jobs) as pool:
        failed = [
            name for name in pool.map(build, [k for k in kernels if options.only in k.name]) if name
        ]
    if options.runtime and not failed:
        write_runtime(kernels, options.out, options.runtime)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
