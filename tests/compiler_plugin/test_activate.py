"""``iree_flashattn.activate()``: compilations inside a Python process, in place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.environments import CPU_FLAGS, Environment, clean_variables

PRELUDE = f"""
import gc, json, os, sys, threading
import iree_flashattn

def compile(path, flags={CPU_FLAGS!r}, steal=False):
    from iree.compiler.api import Output, Session, Source
    session = Session()
    if steal:
        session.context
    session.set_flags(*flags)
    invocation = session.invocation()
    invocation.enable_console_diagnostics()
    source = Source.wrap_buffer(session, open(path, "rb").read() + b"\\0")
    if not (invocation.parse_source(source) and invocation.execute()):
        return None
    output = Output.open_membuffer()
    invocation.output_vm_bytecode(output)
    result = bytes(output.map_memory())
    del output, source, invocation
    session.close()
    return result

def sites():
    with open(os.environ["IREE_FLASHATTN_REPORT"]) as file:
        return [site["matched"] for site in json.load(file)["sites"]]
"""


@pytest.fixture
def run(
    compiler_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> Callable[..., object]:
    def run(code: str, **variables: str):
        return compiler_environment.run_python(
            PRELUDE + code,
            attention_mlir,
            IREE_FLASHATTN_REPORT=str(tmp_path / "report.json"),
            IREE_FLASHATTN_GATE="off",
            **variables,
        )

    return run


def test_a_session_substitutes(run: Callable) -> None:
    result = run(
        """
iree_flashattn.activate()
first = compile(sys.argv[1])
assert sites() == [True]
assert b"fa_forward" in first
"""
    )
    assert result.returncode == 0, result.stderr


def test_many_sessions_one_after_the_other(run: Callable) -> None:
    """Contexts come and go at the same addresses, ours and the caller's, in any order."""
    result = run(
        """
from iree.compiler import ir
iree_flashattn.activate()
iree_flashattn.activate()
results = set()
for i in range(6):
    results.add(compile(sys.argv[1], steal=i % 3 == 2))
    gc.collect()
    with ir.Context():
        ir.Module.parse("module {}")
    os.unlink(os.environ["IREE_FLASHATTN_REPORT"])
assert len(results) == 1 and None not in results
"""
    )
    assert result.returncode == 0, result.stderr


def test_first_sessions_in_threads(run: Callable) -> None:
    """``activate`` has compiled once: LLVM's list of targets is not made in two threads at once."""
    result = run(
        """
import ctypes
iree_flashattn.activate()
from iree_flashattn import _startup, activation
library = ctypes.CDLL(_startup.plugin_path())
assert library.flashattn_session_count() == activation._SESSIONS_OF_THE_COMPILER + 1
"""
    )
    assert result.returncode == 0, result.stderr


def test_sessions_in_threads(run: Callable) -> None:
    result = run(
        """
iree_flashattn.activate()
results = []
threads = [threading.Thread(target=lambda: results.append(compile(sys.argv[1]))) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(results) == 3 and len(set(results)) == 1 and results[0]
"""
    )
    assert result.returncode == 0, result.stderr


def test_the_same_output_as_the_command(
    run: Callable, compiler_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    result = run(
        f"""
iree_flashattn.activate()
open({str(tmp_path / "in")!r}, "wb").write(compile(sys.argv[1]))
"""
    )
    assert result.returncode == 0, result.stderr
    compiler_environment.compile(
        attention_mlir, tmp_path / "out", "--iree-plugin=flashattn", IREE_FLASHATTN_GATE="off"
    )
    kernels = [(tmp_path / name).read_bytes().count(b"fa_forward") for name in ("in", "out")]
    assert kernels[0] == kernels[1] > 0


def test_not_activated_means_stock(run: Callable, tmp_path: Path) -> None:
    result = run("assert b'fa_forward' not in compile(sys.argv[1])")
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "report.json").exists()


def test_after_a_session_it_is_too_late(run: Callable) -> None:
    result = run(
        """
compile(sys.argv[1])
try:
    iree_flashattn.activate()
except iree_flashattn.activation.ActivationError as error:
    print(error)
"""
    )
    assert result.returncode == 0, result.stderr
    assert "was called too late: this process has made 1 compiler session(s)" in result.stdout
    assert "before the first compilation" in result.stdout


def test_after_the_compiler_was_loaded_without_the_plugin_it_is_too_late(run: Callable) -> None:
    result = run(
        """
sys.meta_path[:] = [f for f in sys.meta_path if f.__module__ != "iree_flashattn._startup"]
import iree.compiler.api
iree_flashattn.activate()
"""
    )
    assert result.returncode == 1
    assert "ActivationError" in result.stderr
    assert "was called too late" in result.stderr


def test_importing_the_compiler_first_is_not_too_late(run: Callable) -> None:
    result = run(
        """
import iree.compiler.api, iree.compiler.ir
iree_flashattn.activate()
assert b"fa_forward" in compile(sys.argv[1])
"""
    )
    assert result.returncode == 0, result.stderr


def test_an_exception_is_a_compile_error(run: Callable) -> None:
    result = run(
        """
iree_flashattn.activate()
import iree_flashattn.rewrite
def fail(module): raise ValueError("the third operand is late")
iree_flashattn.rewrite.rewrite_module = fail
assert compile(sys.argv[1]) is None
"""
    )
    assert result.returncode == 0, result.stderr
    assert "error: iree-flashattn: ValueError: the third operand is late" in result.stderr


def test_the_report_is_the_same_as_the_commands(
    run: Callable, compiler_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    assert run("iree_flashattn.activate(); compile(sys.argv[1])").returncode == 0
    ours = json.loads((tmp_path / "report.json").read_text())
    result = compiler_environment.compile(
        *(attention_mlir, tmp_path / "o.vmfb", "--iree-plugin=flashattn"),
        IREE_FLASHATTN_REPORT=str(tmp_path / "command.json"),
        IREE_FLASHATTN_GATE="off",
    )
    assert result.returncode == 0, result.stderr
    command = json.loads((tmp_path / "command.json").read_text())
    for report in (ours, command):
        for site in report["sites"]:
            site.pop("location")  # a buffer in the one, a file in the other
    assert ours == command


def test_turbine_export() -> None:
    """torch to iree-turbine to a module, in a Python process, against torch's own result."""
    code = """
import iree_flashattn
iree_flashattn.activate()
import sys
import numpy as np, torch
import torch.nn.functional as F
import iree.turbine.aot as aot
from iree import runtime

class Model(torch.nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

torch.manual_seed(0)
arguments = [torch.randn(1, 4, 256, 64) for _ in range(3)]
exported = aot.export(Model(), args=tuple(arguments))
exported.session.set_flags("--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host")
binary = exported.compile(save_to=None, target_backends=None)
contents = bytes(binary.map_memory())
assert b"fa_forward" in contents
context = runtime.SystemContext(config=runtime.Config("local-task"))
context.add_vm_module(runtime.VmModule.copy_buffer(context.instance, contents))
result = context.modules.module["main"](*[a.numpy() for a in arguments]).to_host()
np.testing.assert_allclose(result, Model()(*arguments).numpy(), rtol=0, atol=3e-6)
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=clean_variables() | {"IREE_FLASHATTN_GATE": "off"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
