"""``iree-flashattn info``."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table

from .. import __version__, _startup, catalog, resources, runtime
from ..matrix import matrix_rows
from ..resources import MissingResourceError
from . import console as consoles


def run(runtime_plugin: bool) -> None:
    if runtime_plugin:
        print(runtime.path())
        return
    for name, value in _facts():
        print(f"{name:<20}{value}")
    consoles.make().print(_kernel_table())


def _kernel_table() -> Table:
    """The support matrix without what its kernels lack, for which there is no room."""
    table = Table("back end", "kernels", "types", "head dims", "runs on", box=box.SIMPLE_HEAD)
    for column in table.columns[:4]:
        column.no_wrap = True
    before = ""
    for backend, variant, target, types, dims, *_ in matrix_rows()[1:]:
        table.add_row(
            "" if backend == before else backend,
            variant,
            types,
            dims.replace("multiples of", "by"),
            target.replace("x86_64, ", ""),
        )
        before = backend
    return table


def _facts() -> list[tuple[str, str]]:
    import iree.compiler.version
    import iree.runtime.version

    from ..compilers import find_compiler, unsupported

    found = [("iree-flashattn", __version__)]
    compiler = find_compiler([str(Path(iree.compiler.version.__file__).parents[1])])
    if compiler is None:
        found.append(("iree-base-compiler", "not installed"))
    else:
        verdict = "" if compiler.supported else f" - {unsupported(compiler)}"
        found.append(("iree-base-compiler", f"{compiler.version}{verdict}"))
    found.append(("iree-base-runtime", iree.runtime.version.VERSION))
    found.append(("compiler plugin", _path(Path(_startup.plugin_path()))))
    try:
        found.append(("runtime plugin", str(runtime.path())))
    except MissingResourceError as error:
        found.append(("runtime plugin", str(error)))
    for backend in catalog.BACKENDS:
        found.append((f"{backend} kernels", _kernels(backend)))
    found.append(("this CPU", _cpu()))
    return found


def _path(path: Path) -> str:
    path = path.resolve()
    return str(path) if path.is_file() else f"{path} is missing; reinstall the package"


def _kernels(backend: str) -> str:
    try:
        rows = catalog.kernels(backend)
    except MissingResourceError:
        return "none in this installation"
    folder = resources.native_dir() / backend
    built = {path.name.split(".")[0] for path in folder.glob("fa_*")} if folder.is_dir() else set()
    missing = [row.name for row in rows if row.name not in built]
    note = f", not built: {len(missing)}" if missing else ""
    return f"{len(rows)} in {folder}{note}"


def _cpu() -> str:
    """The instruction sets of the machine that kernels ask for, as the compiler sees them."""
    from ..compiling import LOCAL, compile_module
    from ..target import executable_targets, parse_target

    text = compile_module(
        "func.func @f() { return }", (*LOCAL, "--compile-to=preprocessing"), plugin=False
    ).vmfb.decode()
    targets = [parse_target(target) for target in executable_targets(text)]
    asked = {f for row in catalog.kernels("cpu") for f in row.target.get("features", ())}
    asked |= {"avx512bf16", "avx512fp16", "amx-bf16"}
    for target in targets:
        here = sorted(asked & target.features)
        best = next(
            (
                row.name.rpartition("_")[2]
                for row in catalog.kernels("cpu")
                if row.target.get("arch") == target.arch
                and set(row.target.get("features", ())) <= target.features
                and target.cpu in row.target.get("cpus", [target.cpu])
            ),
            "none",
        )
        return f"{target.arch} with {' '.join(here)}; best kernels: {best}"
    return "unknown"
