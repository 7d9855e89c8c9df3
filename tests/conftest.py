"""Fixtures for all tests, what is printed before and after them, and how processes share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import wheel as wheels
from support.environments import COMPILER, RUNTIME, Environment, make_environment


def pytest_report_header() -> str:
    import iree_flashattn

    return f"iree_flashattn {iree_flashattn.__version__}: {Path(iree_flashattn.__file__).parent}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests want to be read though they pass: ``record_property("summary", text)``."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()):
                if name == "summary" and report.when == "call":
                    terminalreporter.write_line(text)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``pytest -n``: the tests of a file share what they build, so one process runs them."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, _ = nodeid.partition("::")
            if "raising/" in path:  # its last file compiles what the others have raised
                return "raising"
            return nodeid if "_programs[" in nodeid else path

    return Files(config, log)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels.find_or_build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def make_compiler_environment(
    tmp_path_factory: pytest.TempPathFactory, wheel: Path
) -> Callable[[], Environment]:
    """Makes an environment with the compiler and the package, to be changed at will."""

    def make() -> Environment:
        environment = make_environment(tmp_path_factory.mktemp("env") / "venv", COMPILER)
        environment.install(wheel)
        return environment

    return make


@pytest.fixture(scope="session")
def compiler_environment(make_compiler_environment: Callable[[], Environment]) -> Environment:
    """The compiler and the package; for tests that leave it as it is."""
    return make_compiler_environment()


@pytest.fixture(scope="session")
def stock_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The compiler, and nothing of ours."""
    return make_environment(tmp_path_factory.mktemp("env") / "stock", COMPILER)


@pytest.fixture(scope="session")
def runtime_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Only iree-base-runtime and what it needs."""
    return make_environment(tmp_path_factory.mktemp("env") / "runtime", RUNTIME)


@pytest.fixture(scope="session")
def attention_mlir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """@attention(q, k, v): 2x160x32 f32, one attention op that every back end serves."""
    path = tmp_path_factory.mktemp("models") / "attention.mlir"
    path.write_text((Path(__file__).parent / "models" / "attention.mlir").read_text())
    return path
