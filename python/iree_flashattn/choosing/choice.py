"""What choosing is told and what it answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..catalog import Kernel


@dataclass(frozen=True)
class Options:
    """The user's switches, read from the environment once per compile."""

    gate: bool = True  # IREE_FLASHATTN_GATE=off: serve also where stock code would be faster
    strict: bool = False  # IREE_FLASHATTN_STRICT=1: an unserved site is an error
    report: str = ""  # IREE_FLASHATTN_REPORT=path
    cpu_link: str = "static"  # IREE_FLASHATTN_CPU_LINK: static, or plugin (runtime extension)
    family: str = ""  # rows of this family alone, e.g. "avx2": for benchmarks and tests

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> Options:
        """Raises ValueError, naming variable, value and choices, on a value that means nothing."""
        env = os.environ if environment is None else environment
        gate = _one_of(env, "IREE_FLASHATTN_GATE", ("on", "off"), "on")
        strict = _one_of(env, "IREE_FLASHATTN_STRICT", ("0", "1"), "0")
        link = _one_of(env, "IREE_FLASHATTN_CPU_LINK", ("static", "plugin"), "static")
        return Options(gate == "on", strict == "1", env.get("IREE_FLASHATTN_REPORT", ""), link)


def _one_of(env: Mapping[str, str], name: str, values: tuple[str, ...], default: str) -> str:
    value = env.get(name) or default
    if value not in values:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(values)}")
    return value


@dataclass(frozen=True)
class Choice:
    """Kernels for one site on one target.

    ``rows`` are forward kernels, or partial kernels with their ``combine`` kernels beside them.
    More than one row means that the device decides at run time, best first. ``trail`` says, row by
    row, why better ones were passed over.
    """

    rows: tuple[Kernel, ...]
    combine: tuple[Kernel, ...] = ()
    splits: int = 1
    trail: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.rows[0].name
