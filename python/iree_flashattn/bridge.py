"""What both ways into Python share: the call of the pattern, and errors as compile errors."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iree.compiler import ir
    from iree.compiler.dialects import builtin


def rewrite(module: ir.Module | builtin.ModuleOp) -> bool:
    """Substitutes kernels in ``module``, in place; False when it was left as it is.

    In a Python process ``module`` is a ``builtin.ModuleOp``, which has the same ``operation``,
    ``context`` and ``body``: an ``ir.Module`` would destroy the compiler's module with itself.
    """
    from .rewrite import rewrite_module

    with without_cycle_collection():
        report = rewrite_module(module)
    return any(site.matched for site in report.sites)


@contextmanager
def without_cycle_collection() -> Iterator[None]:
    """The pattern makes many objects that live until its end: looking for cycles among them again
    and again takes a tenth of its time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def describe(error: BaseException) -> str:
    """The message of a compile error: short for what the user can mend, else with a traceback."""
    if getattr(error, "for_user", False):
        return str(error)
    trace = "".join(traceback.format_exception(error)).rstrip()
    return f"{type(error).__name__}: {error}\nThis is a bug in iree-flashattn:\n{trace}"
