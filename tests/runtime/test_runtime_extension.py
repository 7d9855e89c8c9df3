"""The runtime extension in fresh processes: what it resolves and refuses, and when."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iree_flashattn import catalog, runtime
from iree_flashattn.emitting.cpu_shim import IF_SUPPORTED

PYTHON = Path(catalog.__file__).parents[1]  # of the installation under test
HERE = Path(__file__).parents[1] / "kernels" / "cpu"


def python(code: str) -> subprocess.CompletedProcess[str]:
    paths = [str(PYTHON), str(HERE), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )


def test_enable_is_idempotent():
    result = python("from iree_flashattn import runtime; runtime.enable(); runtime.enable()")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("driver", ["local-task", "local-sync"])
def test_enable_after_a_device_was_made_is_refused(driver):
    result = python(
        f"import iree.runtime as rt; rt.get_device({driver!r})\n"
        "from iree_flashattn import runtime; runtime.enable()"
    )
    assert result.returncode != 0
    assert f"too late: the IREE driver {driver} exists already" in result.stderr


class Parameters(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_size_t),
        ("names", ctypes.POINTER(ctypes.c_char_p)),
        ("functions", ctypes.POINTER(ctypes.c_void_p)),
        ("contexts", ctypes.POINTER(ctypes.c_void_p)),
    ]


class Plugin(ctypes.Structure):
    _fields_ = [
        ("header", ctypes.c_void_p),
        ("load", ctypes.c_void_p),
        ("unload", ctypes.c_void_p),
        ("resolve", ctypes.CFUNCTYPE(
            ctypes.c_size_t, ctypes.c_void_p, ctypes.POINTER(Parameters),
            ctypes.POINTER(ctypes.c_uint32),
        )),
    ]  # fmt: skip


def resolve(*names: str) -> tuple[int, int, list[int | None]]:
    """(status code, resolution flags, functions) of the plugin for these import names."""
    query = ctypes.CDLL(str(runtime.path())).iree_hal_executable_plugin_query
    query.restype = ctypes.POINTER(Plugin)
    plugin = query(ctypes.c_uint32(1), None).contents
    functions = (ctypes.c_void_p * len(names))()
    parameters = Parameters(
        len(names),
        (ctypes.c_char_p * len(names))(*(n.encode() for n in names)),
        functions,
        (ctypes.c_void_p * len(names))(),
    )
    flags = ctypes.c_uint32()
    status = plugin.resolve(None, ctypes.byref(parameters), ctypes.byref(flags))
    return status, flags.value, list(functions)


def test_every_kernel_that_the_machine_runs_is_there():
    sys.path.insert(0, str(HERE))
    import cpu_native

    for kernel in catalog.kernels("cpu"):
        status, _, functions = resolve(kernel.name)
        names = [kernel.name, *kernel.extra.get("fallback", ())]
        runs = any(cpu_native.why_not(catalog.find(name)) is None for name in names)
        assert (status == 0) == runs, kernel.name
        assert bool(functions[0]) == runs
        if kernel.target["arch"] != cpu_native.machine():
            continue
        # A module that calls it only where it runs loads in any case.
        status, _, functions = resolve(f"{kernel.name}{IF_SUPPORTED}")
        assert status == 0, kernel.name
        assert functions[0]


def test_unknown_imports():
    not_found, missing_optional = 5, 1
    assert resolve("fa_no_such_kernel")[0] == not_found
    assert resolve(f"fa_no_such_kernel{IF_SUPPORTED}")[0] == not_found
    assert resolve("?fa_no_such_kernel")[:2] == (0, missing_optional)


def test_a_runtime_without_the_interface_gets_nothing():
    query = ctypes.CDLL(str(runtime.path())).iree_hal_executable_plugin_query
    query.restype = ctypes.c_void_p
    assert query(ctypes.c_uint32(0), None) is None
