"""The kernel tables (``plugin/<backend>/kernels.toml``) as data.

One row is one kernel; docs/architecture.md says what each key means. The build, the choice of a
kernel, the tests and the documentation all read rows from here, so a kernel cannot exist that
they do not know. This module needs nothing but the standard library (the build imports it).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Literal

Role = Literal["forward", "partial", "combine"]

BACKENDS = ("cpu", "cuda", "spirv")
ROLES = ("forward", "partial", "combine")
ELEMENTS = ("f32", "f16", "bf16")
FEATURES = frozenset(
    "mask bias bias_after_fill fill band softcap sinks weights lse gqa q_transposed k_transposed"
    " v_transposed o_transposed dk_ne_dv dynamic".split()
)
GRID_NAMES = frozenset(["q_blocks", "packed_blocks", "heads", "kv_heads", "batch", "splits"])


class CatalogError(ValueError):
    """A row of a kernel table is malformed; the message names the file, the row and the key."""


@dataclass(frozen=True)
class HeadDims:
    """The head dims a kernel serves: a range with a divisor, or explicit lists."""

    max: int | None = None
    multiple_of: int = 1
    dk: tuple[int, ...] = ()
    dv: tuple[int, ...] = ()

    def serves(self, dk: int, dv: int) -> bool:
        if self.dk and (dk not in self.dk or dv not in (self.dv or self.dk)):
            return False
        if self.max is not None and max(dk, dv) > self.max:
            return False
        return dk % self.multiple_of == 0 and dv % self.multiple_of == 0


@dataclass(frozen=True)
class Kernel:
    backend: str
    name: str
    role: Role
    element: str
    target: Mapping[str, Any]
    features: frozenset[str]
    head_dim: HeadDims
    q_tile: int
    kv_tile: int
    grid: tuple[str, str, str]
    source: str
    combine: str | None = None
    workgroup: tuple[int, ...] = ()
    scratch_bytes: int = 0
    rows_min: int = 1
    rows_max: int | None = None
    defines: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)  # keys of one backend only

    @property
    def working_bytes(self) -> int:
        """The scratch memory of a call: the module's, or the runtime extension's own."""
        return self.extra.get("own_scratch_bytes", self.scratch_bytes)

    def grid_size(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The workgroup count. ``sizes``: batch, heads, kv_heads, q_len and, for split
        kernels, splits."""
        known = dict(sizes)
        known.setdefault("splits", 1)
        known["q_blocks"] = -(-sizes["q_len"] // self.q_tile)
        group = sizes["heads"] // sizes["kv_heads"]
        known["packed_blocks"] = -(-sizes["q_len"] * group // self.q_tile)
        return tuple(
            prod(known[f] if f in known else int(f) for f in factors(axis)) for axis in self.grid
        )


def factors(expression: str) -> list[str]:
    """The factors of a grid expression, e.g. ``"batch*splits"`` -> ``["batch", "splits"]``."""
    return [factor.strip() for factor in expression.split("*")]


def load_table(backend: str, path: Path) -> list[Kernel]:
    """The rows of one table, in order. Raises CatalogError naming the row and key at fault."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{path}: {error}") from None
    defaults = table.get("defaults", {})
    kernels: list[Kernel] = []
    for row in table.get("kernel", []):
        for expanded in _expand({**defaults, **row}):
            kernels.append(_kernel(backend, path, expanded))
    names = [k.name for k in kernels]
    for kernel in kernels:
        if names.count(kernel.name) > 1:
            raise CatalogError(f"{path}: two rows are named {kernel.name}")
        if kernel.role == "partial" and kernel.combine not in names:
            raise CatalogError(f"{path}: {kernel.name}: combine = {kernel.combine!r} is no row")
    return kernels


@cache
def kernels(backend: str) -> tuple[Kernel, ...]:
    """All rows of ``cpu``, ``cuda`` or ``spirv``, best first."""
    from . import resources

    return tuple(load_table(backend, resources.kernel_table(backend)))


def find(name: str) -> Kernel:
    """The kernel of that name, of whatever backend. Raises KeyError."""
    for backend in BACKENDS:
        for kernel in kernels(backend):
            if kernel.name == name:
                return kernel
    raise KeyError(name)


def _expand(row: dict[str, Any]) -> list[dict[str, Any]]:
    """One row an element type, with ``{element}`` replaced in every string."""
    elements = row.get("element")
    if not isinstance(elements, list):
        return [row]

    def filled(value: Any, element: str) -> Any:
        if isinstance(value, str):
            return value.replace("{element}", element)
        if isinstance(value, list):
            return [filled(v, element) for v in value]
        return value

    return [{**{k: filled(v, e) for k, v in row.items()}, "element": e} for e in elements]


_KEYS = frozenset(
    "name role combine element target features head_dim q_tile kv_tile grid workgroup"
    " scratch_bytes rows source defines flags".split()
)


def _kernel(backend: str, path: Path, row: Mapping[str, Any]) -> Kernel:
    name = row.get("name", "(a row without a name)")

    def need(key: str, kind: type, ok: bool = True) -> Any:
        value = row.get(key)
        if not isinstance(value, kind) or not ok:
            raise CatalogError(f"{path}: {name}: {key} = {value!r}, expected a {kind.__name__}")
        return value

    def refuse(key: str, why: str) -> CatalogError:
        return CatalogError(f"{path}: {name}: {key} = {row.get(key)!r}: {why}")

    if not re.fullmatch(r"fa_[a-z0-9_]+", need("name", str)):
        raise refuse("name", "must look like fa_<role>_<element>_<variant>")
    if need("role", str) not in ROLES:
        raise refuse("role", f"must be one of {', '.join(ROLES)}")
    if need("element", str) not in ELEMENTS:
        raise refuse("element", f"must be one of {', '.join(ELEMENTS)}")
    if unknown := set(need("features", list)) - FEATURES:
        raise refuse("features", f"unknown: {', '.join(sorted(unknown))}")
    grid = need("grid", list)
    if len(grid) != 3:
        raise refuse("grid", "must have three expressions")
    for expression in grid:
        for factor in factors(str(expression)):
            if factor not in GRID_NAMES and not factor.isdecimal():
                raise refuse("grid", f"{factor!r} is neither an integer nor a known size")
    for key in ("q_tile", "kv_tile"):
        if need(key, int) < 1:
            raise refuse(key, "must be positive")
    dims = dict(need("head_dim", dict))
    rows = row.get("rows", {})
    return Kernel(
        backend=backend,
        name=name,
        role=row["role"],
        element=row["element"],
        target=need("target", dict),
        features=frozenset(row["features"]),
        head_dim=HeadDims(
            dims.get("max"),
            dims.get("multiple_of", 1),
            tuple(dims.get("dk", ())),
            tuple(dims.get("dv", ())),
        ),
        q_tile=row["q_tile"],
        kv_tile=row["kv_tile"],
        grid=tuple(str(e) for e in grid),
        source=need("source", str),
        combine=row.get("combine"),
        workgroup=tuple(row.get("workgroup", ())),
        scratch_bytes=int(row.get("scratch_bytes", 0)),
        rows_min=int(rows.get("min", 1)),
        rows_max=rows.get("max"),
        defines=tuple(row.get("defines", ())),
        flags=tuple(row.get("flags", ())),
        extra={k: v for k, v in row.items() if k not in _KEYS},
    )
