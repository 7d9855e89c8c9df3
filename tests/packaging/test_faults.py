"""Damaged, read-only and crowded installations."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.environments import CPU_FLAGS, PLUGIN_FLAG, Environment
from support.wheel import ROOT


@pytest.fixture
def environment(make_compiler_environment: Callable[[], Environment]) -> Environment:
    return make_compiler_environment()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_a_bit(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize("damage", [Path.unlink, cut_short, turn_a_bit])
def test_a_damaged_kernel_file_is_named(
    damage: Callable[[Path], None], environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    objects = sorted((environment.native / "cpu").glob("*.o"))
    assert objects
    for path in objects:
        damage(path)
    result = environment.compile(
        attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG, IREE_FLASHATTN_GATE="off"
    )
    assert result.returncode == 1
    assert any(str(path) in result.stderr for path in objects), result.stderr
    assert "reinstall" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "o.vmfb").exists()
    # Those who did not ask for it do not notice.
    assert environment.compile(attention_mlir, tmp_path / "o.vmfb").returncode == 0


@pytest.mark.parametrize("damage", [Path.unlink, cut_short])
def test_a_damaged_plugin_ends_only_the_compilations_that_ask_for_it(
    damage: Callable[[Path], None], environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    damage(environment.plugin)
    result = environment.compile(attention_mlir, tmp_path / "o.vmfb")
    assert (result.returncode, result.stderr) == (0, "")
    result = environment.compile(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG)
    assert result.returncode == 1
    assert f"{environment.plugin} is missing or damaged; reinstall" in result.stderr


def test_a_half_removed_package_does_not_disturb_python(environment: Environment) -> None:
    shutil.rmtree(environment.packages / "iree_flashattn")
    result = environment.run_python("import iree.compiler; print('fine')")
    assert (result.returncode, result.stdout, result.stderr) == (0, "fine\n", "")


def test_the_start_of_python_imports_next_to_nothing(environment: Environment) -> None:
    loaded = "import sys; print(*sys.modules)"
    ours = set(environment.run_python(loaded).stdout.split())
    (environment.packages / "iree_flashattn.pth").unlink()
    stock = set(environment.run_python(loaded).stdout.split())
    assert ours - stock == {"iree_flashattn", "iree_flashattn._startup", "__future__"}


def test_the_interpreter_is_gone(
    environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    command = [environment.native_tool, *CPU_FLAGS, attention_mlir, "-o", tmp_path / "o.vmfb"]
    command += [f"--iree-load-plugin={environment.plugin}", PLUGIN_FLAG]
    gone = str(tmp_path / "bin" / "python")
    result = environment.run(*command, IREE_FLASHATTN_PYTHON=gone)
    assert result.returncode == 1
    assert f"looked for {gone}" in result.stderr

    for path in (environment.root / "bin").glob("python*"):
        path.unlink()
    result = environment.run(*command)
    assert result.returncode == 1
    assert f"looked for {environment.root}/bin/python3" in result.stderr


def test_a_module_of_the_working_directory_does_not_stand_in(
    environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    for name in ("iree_flashattn", "numpy", "typing", "json"):
        (environment.root / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    result = environment.compile(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG)
    assert result.returncode == 0, result.stderr


def test_a_read_only_installation(
    environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    before = environment.files()
    folders = [environment.packages, *environment.packages.joinpath("iree_flashattn").rglob("*")]
    for path in folders:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        result = environment.compile(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG)
    finally:
        for path in folders:
            path.chmod(path.stat().st_mode | 0o200)
    assert result.returncode == 0, result.stderr
    assert environment.files() == before  # for root, whom permissions do not stop


def test_no_room_for_temporary_files(
    compiler_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    result = compiler_environment.compile(
        attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG, TMPDIR=str(nowhere)
    )
    assert result.returncode == 1
    assert f"cannot make the temporary file {nowhere}/" in result.stderr


def test_no_temporary_file_has_a_name(
    make_compiler_environment: Callable[[], Environment], attention_mlir: Path, tmp_path: Path
) -> None:
    """So that none is left behind, not even when the compiler is killed."""
    environment = make_compiler_environment()
    (environment.packages / "iree_flashattn" / "rewrite.py").write_text(
        "import os\nfound = os.listdir(os.environ['TMPDIR'])\nraise SystemExit(f'found {found}')\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    result = environment.compile(
        attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG, TMPDIR=str(scratch)
    )
    assert result.returncode == 1
    assert "found []" in result.stderr


def test_two_compilations_at_once(
    compiler_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / f"{i}.vmfb" for i in range(2)]
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(
            lambda output: compiler_environment.compile(attention_mlir, output, PLUGIN_FLAG),
            outputs,
        )
    for result in results:
        assert result.returncode == 0, result.stderr
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize(
    "text", ["func.func @f( {", "func.func @f(%a: tensor<4xf32>) { return %b : i32 }", "\0\1\2"]
)
def test_malformed_mlir_is_the_compilers_own_error(
    text: str,
    compiler_environment: Environment,
    stock_environment: Environment,
    tmp_path: Path,
) -> None:
    source = tmp_path / "bad.mlir"
    source.write_text(text)
    ours = compiler_environment.compile(source, tmp_path / "o.vmfb", PLUGIN_FLAG)
    stock = stock_environment.compile(source, tmp_path / "o.vmfb")
    assert (ours.returncode, ours.stderr) == (stock.returncode, stock.stderr)
    assert ours.returncode == 1


@pytest.fixture(scope="module")
def other_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody else's plugin: tools/plugin_probe.cc, with the id flashattn_probe."""
    library = tmp_path_factory.mktemp("other") / "probe.so"
    subprocess.run(
        [
            *("c++", "-std=c++17", "-shared", "-fPIC", "-fno-exceptions", "-fno-rtti"),
            *("-fvisibility=hidden", f"-I{ROOT / 'plugin' / 'compiler'}"),
            *(str(ROOT / "tools" / "plugin_probe.cc"), "-o", str(library)),
        ],
        check=True,
    )
    return library


def test_plugins_of_the_user_are_kept(
    compiler_environment: Environment, other_plugin: Path, attention_mlir: Path, tmp_path: Path
) -> None:
    result = compiler_environment.compile(
        *(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG, "--iree-plugin=flashattn_probe"),
        IREE_LOAD_PLUGINS=str(other_plugin),
    )
    assert result.returncode == 0, result.stderr
    assert "[probe] onActivate with a context" in result.stderr


def test_the_plugin_of_another_environment_is_dropped(
    compiler_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    """A process of that environment started this one, and its variables are inherited."""
    elsewhere = tmp_path / "elsewhere" / compiler_environment.plugin.name
    elsewhere.parent.mkdir()
    shutil.copy(compiler_environment.plugin, elsewhere)
    result = compiler_environment.compile(
        *(attention_mlir, tmp_path / "o.vmfb", PLUGIN_FLAG), IREE_LOAD_PLUGINS=str(elsewhere)
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("linked", [False, True])
def test_the_same_library_loaded_twice(
    linked: bool, compiler_environment: Environment, attention_mlir: Path, tmp_path: Path
) -> None:
    path = compiler_environment.plugin
    if linked:
        path = tmp_path / "link.so"
        path.symlink_to(compiler_environment.plugin)
    result = compiler_environment.compile(
        *(attention_mlir, tmp_path / "o.vmfb", f"--iree-load-plugin={path}", PLUGIN_FLAG)
    )
    assert result.returncode == 0, result.stderr
