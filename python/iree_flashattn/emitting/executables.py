"""Executables: one for each set of kernels, shared by all sites that chose the set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from iree.compiler import ir

from ..choosing import Options
from ..target import Target
from .interface import Interface, interface

if TYPE_CHECKING:
    from ..catalog import Kernel


class BackendModule(Protocol):
    """What ``emitting/<backend>.py`` offers."""

    ONE_VARIANT: bool  # whether all kernels of a target go into one variant

    def variant(
        self,
        rows: Sequence[Kernel],
        target: Target,
        interface: Interface,
        symbol: str,
        executable: str,
        options: Options,
    ) -> str:
        """The text of a ``hal.executable.variant`` named ``symbol``, its condition included.

        ``rows``: best first, one only unless ``ONE_VARIANT`` is set."""
        ...

    def export_name(self, row: Kernel, executable: str) -> str:
        """The symbol of the export in the variant of ``executable``; ``row`` is its best one."""
        ...


@dataclass(frozen=True)
class Placed:
    """A kernel on the target that it was chosen for."""

    row: Kernel
    target: Target


class Executables:
    """The executables that this rewrite has added to a module."""

    def __init__(self, module: ir.Module, options: Options) -> None:
        self._module = module
        self._options = options
        self._added: dict[tuple, ir.ArrayAttr] = {}
        self._taken: set[str] | None = None
        self.terms: dict[tuple, ir.Value] = {}  # tensors built for sites, by what they are

    def entry_points(
        self, kernels: list[Placed], with_weights: bool = False, with_lse: bool = False
    ) -> ir.ArrayAttr:
        """``[@exe::@variant::@export, …]`` for the kernels, best first; adds what is missing."""
        # a site may have narrowed a row's conditions
        rows = tuple((k.row.name, str(k.row.target), k.target.attribute) for k in kernels)
        key = (rows, with_weights, with_lse)
        if key not in self._added:
            self._added[key] = self._add(kernels, with_weights, with_lse)
        return self._added[key]

    def _add(self, kernels: list[Placed], with_weights: bool, with_lse: bool) -> ir.ArrayAttr:
        results = ("_weights" if with_weights else "") + ("_lse" if with_lse else "")
        name = self._fresh(kernels[0].row.name + results)
        variants, references = [], []
        context = self._module.context
        used: set[str] = set()
        for rows, target in _variants(kernels):
            backend = backend_module(target.backend)
            shape = interface(rows[0].role, with_weights, with_lse)
            symbol = _unused(re.sub(r"\W", "_", target.format), used)
            variants.append(backend.variant(rows, target, shape, symbol, name, self._options))
            path = [name, symbol, backend.export_name(rows[0], name)]
            references.append(ir.SymbolRefAttr.get(path, context))
        text = f"hal.executable private @{name} {{\n{''.join(variants)}\n}}"
        parsed = ir.Module.parse(text, context)
        where = ir.InsertionPoint.at_block_begin(self._module.body)
        parsed.body.operations[0].operation.clone(ip=where)
        return ir.ArrayAttr.get(references, context)

    def _fresh(self, name: str) -> str:
        if self._taken is None:
            self._taken = {
                str(op.attributes["sym_name"]).strip('"')
                for op in self._module.body.operations
                if "sym_name" in op.attributes
            }
        return _unused(name, self._taken)


def _variants(kernels: list[Placed]) -> list[tuple[list[Kernel], Target]]:
    """The kernels of each variant, in order, and its target."""
    found: list[tuple[list[Kernel], Target]] = []
    for kernel in kernels:
        together = backend_module(kernel.target.backend).ONE_VARIANT
        if together and found and found[-1][1] == kernel.target:
            found[-1][0].append(kernel.row)
        else:
            found.append(([kernel.row], kernel.target))
    return found


def _unused(name: str, taken: set[str]) -> str:
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def backend_module(backend: str) -> BackendModule:
    return import_module(f".{backend}", __package__)
