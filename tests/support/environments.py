"""Clean Python environments in a second: their big packages are links into this one's.

An environment has no pip and no setuptools; the wheel under test is really installed, by pip.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

COMPILER = ("iree-base-compiler", "numpy", "ml_dtypes", "sympy", "mpmath")
RUNTIME = ("iree-base-runtime", "numpy", "ml_dtypes")
CPU_FLAGS = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=host",
)
PLUGIN_FLAG = "--iree-plugin=flashattn"
_SCRIPT = """\
#!{python}
import sys
from iree.compiler.tools.scripts.iree_compile.__main__ import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Environment:
    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    @property
    def packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.root / "lib" / version / "site-packages"

    @property
    def native(self) -> Path:
        return self.packages / "iree_flashattn" / "_native"

    @property
    def plugin(self) -> Path:
        return self.native / "lib" / "libiree_flashattn_compiler.so"

    @property
    def native_tool(self) -> Path:
        """The iree-compile binary, without the Python script around it."""
        return self.packages / "iree" / "compiler" / "_mlir_libs" / "iree-compile"

    def run(
        self, *command: str | Path, check: bool = False, timeout: float = 300, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command of the environment, with ``variables`` and nothing inherited of ours."""
        return subprocess.run(
            [str(word) for word in command],
            env=clean_variables() | {"PYTHONDONTWRITEBYTECODE": "1"} | variables,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
        )

    def run_python(self, code: str, *arguments: str | Path, **variables: str):
        return self.run(self.python, "-c", code, *arguments, **variables)

    def compile(self, source: Path, output: Path, *flags: str | Path, **variables: str):
        """The stock ``iree-compile`` command, for this machine's CPU."""
        tool = self.root / "bin" / "iree-compile"
        return self.run(tool, *CPU_FLAGS, *flags, source, "-o", output, **variables)

    def install(self, wheel: Path) -> None:
        pip(self, "install", "--no-deps", "--no-index", "--no-compile", str(wheel))

    def uninstall(self) -> None:
        pip(self, "uninstall", "--yes", "iree-flashattn")

    def files(self) -> dict[str, bytes | str]:
        """Every file and folder of site-packages and bin that is not behind a link."""
        found: dict[str, bytes | str] = {}
        for folder in (self.packages, self.root / "bin"):
            for path in sorted(folder.rglob("*")):
                name = str(path.relative_to(self.root))
                if path.is_symlink():
                    found[name] = str(path.readlink())
                else:
                    found[name] = path.read_bytes() if path.is_file() else "a folder"
        return found


def clean_variables() -> dict[str, str]:
    ours = ("IREE_", "PYTHON", "VIRTUAL_ENV", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def pip(environment: Environment, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(environment.python), "--quiet"]
    result = subprocess.run(
        [*command, *arguments], env=clean_variables(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def make_environment(root: Path, distributions: tuple[str, ...]) -> Environment:
    venv.EnvBuilder(symlinks=True, with_pip=False).create(root)
    environment = Environment(root)
    for name in distributions:
        for piece in _pieces(name):
            link = environment.packages / piece
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(_location(name) / piece)
    if "iree-base-compiler" in distributions:
        script = root / "bin" / "iree-compile"
        script.write_text(_SCRIPT.format(python=environment.python))
        script.chmod(0o755)
    return environment


def _location(name: str) -> Path:
    return Path(str(metadata.distribution(name).locate_file("")))


def _pieces(name: str) -> set[str]:
    """What a distribution owns in site-packages: top-level entries, or iree/<entry>."""
    pieces = set()
    for file in metadata.distribution(name).files or ():
        if file.parts[0] == "iree" and len(file.parts) > 2:
            pieces.add("/".join(file.parts[:2]))
        elif file.parts[0] not in ("..", "iree", "__pycache__"):
            pieces.add(file.parts[0])
    return pieces
