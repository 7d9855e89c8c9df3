"""Offers the compiler plugin to the compiler of this environment; run by ``iree_flashattn.pth``.

It runs in every Python process of the environment, so it does next to nothing until
``iree.compiler`` is imported (the ``iree-compile`` command does that too, and hands its environment
to the native tool). A plugin that does not load would end every compilation, also those that never
asked for it: it is offered only to a compiler that it was built for. Somebody who asks for it and
cannot have it gets the reason.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without the 3 ms of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

LIBRARY = "libiree_flashattn_compiler.so"
_PLUGINS = "IREE_LOAD_PLUGINS"
_PYTHON = "IREE_FLASHATTN_PYTHON"


def plugin_path() -> str:
    package = os.path.dirname(os.path.abspath(__file__))
    if os.path.isdir(os.path.join(package, "_native")):
        return os.path.join(package, "_native", "lib", LIBRARY)
    return os.path.join(package, "..", "..", "build", "native", "lib", LIBRARY)


def offer_plugin(search_path: Iterable[str]) -> str | None:
    """Puts the plugin into the environment for the compiler found on ``search_path``.

    Returns None, or the reason why it was not put there. The user's own plugins stay; entries for
    another copy of this plugin, inherited from a process of another environment, go.
    """
    others = [
        entry
        for entry in os.environ.get(_PLUGINS, "").split(",")
        if entry and os.path.basename(entry) != LIBRARY
    ]
    reason = _reason_against(search_path)
    path = os.path.normpath(plugin_path())
    _set(_PLUGINS, ",".join(others if reason else [*others, path]))
    if not reason and sys.executable:
        _set(_PYTHON, sys.executable)
    return reason


def asks_for_plugin(arguments: Sequence[str]) -> bool:
    """Whether an ``iree-compile`` command line has ``--iree-plugin=flashattn``."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    for argument, following in pairs:
        name, _, value = argument.partition("=")
        if name in ("--iree-plugin", "-iree-plugin") and (value or following) == "flashattn":
            return True
    return False


def _is_iree_command() -> bool:
    """Whether this process is ``iree-compile``, or ``python -m`` of its module."""
    command = getattr(sys, "argv", [""])[0]
    return command == "-m" or os.path.basename(command).startswith("iree-")


def _reason_against(search_path: Iterable[str]) -> str | None:
    from . import compilers

    compiler = compilers.find_compiler(search_path)
    if compiler is None:
        return "iree-flashattn: iree.compiler is not installed (pip install iree-base-compiler)"
    if not compiler.supported:
        return compilers.unsupported(compiler)
    path = plugin_path()
    if not _whole_library(path):
        return (
            f"iree-flashattn: {path} is missing or damaged; reinstall the package"
            " (pip install --force-reinstall iree-flashattn)"
        )
    if "," in path:
        return f"iree-flashattn: IREE cannot load a plugin whose path has a comma in it: {path}"
    return None


def _whole_library(path: str) -> bool:
    """A 64-bit ELF file that reaches to the end of its section table: no truncated copy."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
            size = file.seek(0, os.SEEK_END)
    except OSError:
        return False
    if len(header) < 64 or header[:5] != b"\x7fELF\x02":
        return False
    number = int.from_bytes
    sections = number(header[40:48], "little")
    end = sections + number(header[58:60], "little") * number(header[60:62], "little")
    return sections > 0 and end <= size


def _set(name: str, value: str) -> None:
    if value:
        os.environ[name] = value
    else:
        os.environ.pop(name, None)


class _CompilerImport:
    """Import hook: acts right before ``iree.compiler`` is found, and finds nothing itself."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "iree.compiler" and path is not None:
            self.reason = offer_plugin(path)
            if self.reason and _is_iree_command() and asks_for_plugin(sys.argv):
                raise SystemExit(self.reason)
        elif name == "iree.compiler.tools.binaries" and self.reason:
            from importlib.machinery import PathFinder

            return self._explaining(PathFinder.find_spec(name, path))
        return None

    def _explaining(self, spec: ModuleSpec | None) -> ModuleSpec | None:
        """``compile_file`` and ``compile_str`` run the native tool: say the reason there too."""
        if spec is None or spec.loader is None:
            return spec
        run_module = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run_module(module)
            error = module.CompilerToolError
            one, several = module.invoke_immediate, module.invoke_pipeline
            module.invoke_immediate = self._checked(one, error, lambda command: [command])
            module.invoke_pipeline = self._checked(several, error, list)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _checked(self, invoke: Callable, error: type[Exception], commands_of: Callable) -> Callable:
        def checked(commands: list, *args: object, **kwargs: object) -> object:
            for command in commands_of(commands):
                if asks_for_plugin(command):
                    from subprocess import CompletedProcess

                    message = (self.reason or "").encode()
                    raise error(CompletedProcess(command, 1, b"", message))
            return invoke(commands, *args, **kwargs)

        return checked


def install() -> None:
    if not any(isinstance(finder, _CompilerImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _CompilerImport())
