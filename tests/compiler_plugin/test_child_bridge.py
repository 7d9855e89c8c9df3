"""The native tool and its child process: what goes over, what comes back, and what can go wrong.

The pattern is replaced by one of these, so that the bridge alone is under test.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.environments import PLUGIN_FLAG, Environment

PATTERN = """
from types import SimpleNamespace

def rewrite_module(module):
    from iree.compiler import ir
    {body}
    return SimpleNamespace(sites=[SimpleNamespace(matched={matched})])
"""


@pytest.fixture(scope="module")
def environment(make_compiler_environment: Callable[[], Environment]) -> Environment:
    return make_compiler_environment()


@pytest.fixture
def pattern(environment: Environment) -> Callable[..., None]:
    def write(body: str, matched: bool = True) -> None:
        text = PATTERN.format(body="\n    ".join(body.splitlines()), matched=matched)
        (environment.packages / "iree_flashattn" / "rewrite.py").write_text(text)

    return write


def test_an_exception_is_a_compile_error(
    environment: Environment, pattern: Callable, attention_mlir: Path, tmp_path: Path
) -> None:
    pattern("raise ValueError('the third operand is late')")
    result = environment.compile(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG)
    assert result.returncode == 1
    assert "error: iree-flashattn: ValueError: the third operand is late" in result.stderr
    assert "Traceback" in result.stderr
    assert not (tmp_path / "o.vmfb").exists()


def test_a_message_for_the_user_has_no_traceback(
    environment: Environment, pattern: Callable, attention_mlir: Path, tmp_path: Path
) -> None:
    pattern("class E(Exception): for_user = True\nraise E('name another file')")
    result = environment.compile(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG)
    assert result.returncode == 1
    assert "error: iree-flashattn: name another file\n" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os; os.abort()", "was ended by signal 6"),
        ("import os; os._exit(3)", "ended with status 3 and no message"),
        ("raise SystemExit('stop')", "SystemExit: stop"),
    ],
)
def test_the_end_of_the_process_is_a_compile_error(
    body: str,
    message: str,
    environment: Environment,
    pattern: Callable,
    attention_mlir: Path,
    tmp_path: Path,
) -> None:
    pattern(body)
    result = environment.compile(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG)
    assert result.returncode == 1
    assert message in result.stderr


def test_invalid_ir_is_a_compile_error(
    environment: Environment, pattern: Callable, attention_mlir: Path, tmp_path: Path
) -> None:
    pattern("list(module.body.operations)[-1].regions[0].blocks[0].operations[-1].erase()")
    result = environment.compile(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG)
    assert result.returncode == 1
    assert "error:" in result.stderr
    assert "terminator" in result.stderr


def test_what_the_pattern_prints_is_shown(
    environment: Environment, pattern: Callable, attention_mlir: Path, tmp_path: Path
) -> None:
    pattern("print('one site')", matched=False)
    result = environment.compile(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG)
    assert result.returncode == 0
    assert result.stderr == "one site\n"


@pytest.mark.parametrize("matched", [False, True])
def test_an_unchanged_module_compiles_to_the_same_bytes(
    matched: bool,
    environment: Environment,
    stock_environment: Environment,
    pattern: Callable,
    attention_mlir: Path,
    tmp_path: Path,
) -> None:
    """With ``matched`` the module goes through bytecode and back."""
    pattern("pass", matched=matched)
    result = environment.compile(attention_mlir, tmp_path / "ours", PLUGIN_FLAG)
    assert result.returncode == 0, result.stderr
    stock_environment.compile(attention_mlir, tmp_path / "stock")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "stock").read_bytes()


def test_the_childs_environment(
    environment: Environment, pattern: Callable, attention_mlir: Path, tmp_path: Path
) -> None:
    """Everything is inherited but the list of plugins: other people's stay out of the child."""
    seen = tmp_path / "seen.json"
    pattern("import json, os\nopen(os.environ['SEEN'], 'w').write(json.dumps(dict(os.environ)))")
    result = environment.compile(
        *(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG),
        SEEN=str(seen),
        IREE_FLASHATTN_STRICT="1",
        IREE_LOAD_PLUGINS="",
    )
    assert result.returncode == 0, result.stderr
    variables = json.loads(seen.read_text())
    assert variables["IREE_FLASHATTN_STRICT"] == "1"
    assert Path(variables["IREE_FLASHATTN_PYTHON"]).samefile(environment.python)
    assert variables.get("IREE_LOAD_PLUGINS", "") in ("", str(environment.plugin))


WEIGHTS = """
import sys
import numpy as np
from iree.compiler import ir
count, size = 8, 1024 * int(sys.argv[2])
with ir.Context(), ir.Location.unknown():
    kind = f"tensor<{size}xf32>"
    text = [f'util.global private @w{i} = dense<0.0> : {kind}' for i in range(count)]
    text += [f"func.func @f(%x0: {kind}) -> {kind} {{"]
    for i in range(count):
        text += [f"%w{i} = util.global.load @w{i} : {kind}"]
        text += [f"%x{i + 1} = arith.addf %x{i}, %w{i} : {kind}"]
    module = ir.Module.parse("\\n".join([*text, f"return %x{count} : {kind}", "}"]))
    for i in range(count):
        value = np.full(size, 2.0**i, np.float32)
        module.body.operations[i].attributes["initial_value"] = (
            ir.DenseResourceElementsAttr.get_from_buffer(
                memoryview(value), f"weights{i}", ir.Type.parse(kind)
            )
        )
    module.operation.write_bytecode(sys.argv[1])
"""


def test_weights_survive_the_way_there_and_back(
    environment: Environment,
    stock_environment: Environment,
    pattern: Callable,
    tmp_path: Path,
) -> None:
    """128 MB of resource blobs; the result has each byte that stock's has."""
    model = tmp_path / "model.mlirbc"
    result = stock_environment.run_python(WEIGHTS, model, "4096")
    assert result.returncode == 0, result.stderr
    assert model.stat().st_size > 128 * 2**20
    pattern("module.operation.attributes['flashattn.seen'] = ir.UnitAttr.get(module.context)")
    result = environment.compile(model, tmp_path / "ours.vmfb", PLUGIN_FLAG)
    assert result.returncode == 0, result.stderr
    stock_environment.compile(model, tmp_path / "stock.vmfb")
    ours = np.memmap(tmp_path / "ours.vmfb")
    assert np.array_equal(ours, np.memmap(tmp_path / "stock.vmfb"))
    assert np.count_nonzero(ours) > 8 * 4 * 2**20  # the weights are inside
    for path in (model, tmp_path / "ours.vmfb", tmp_path / "stock.vmfb"):
        os.truncate(path, 0)  # pytest keeps the folder
