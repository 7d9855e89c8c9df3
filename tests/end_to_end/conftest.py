"""Compiles through the native iree-compile with the flag, and runs on local-task."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iree_flashattn.compiling import Compiled, compile_module

UNGATED = {"IREE_FLASHATTN_GATE": "off"}


@pytest.fixture(scope="session")
def compile_served() -> Callable[..., Compiled]:
    """Compiles with the gate off and insists that every site was substituted."""

    def compile_all(source, sites: int = 1, **kwargs) -> Compiled:
        options = UNGATED | kwargs.pop("options", {})
        done = compile_module(source, options=options, **kwargs)
        refused = [site for site in done.sites if not site["matched"]]
        assert not refused, refused
        assert len(done.sites) == sites
        return done

    return compile_all
