"""Executables: one for each set of kernels, shared by all sites that chose the set."""

from __future__ import annotations

import re
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

    def variant(
        self,
        row: Kernel,
        target: Target,
        interface: Interface,
        symbol: str,
        options: Options,
    ) -> str:
        """The text of a ``hal.executable.variant`` named ``symbol``, its condition included."""
        ...

    def export_name(self, row: Kernel) -> str:
        """The symbol of the export inside the variant."""
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

    def entry_points(self, kernels: list[Placed], with_weights: bool = False) -> ir.ArrayAttr:
        """``[@exe::@variant::@export, …]`` for the kernels, best first; adds what is missing."""
        key = (tuple((k.row.name, k.target.attribute) for k in kernels), with_weights)
        if key not in self._added:
            self._added[key] = self._add(kernels, with_weights)
        return self._added[key]

    def _add(self, kernels: list[Placed], with_weights: bool) -> ir.ArrayAttr:
        name = self._fresh(kernels[0].row.name + ("_weights" if with_weights else ""))
        variants, references = [], []
        context = self._module.context
        used: set[str] = set()
        for kernel in kernels:
            backend = backend_module(kernel.target.backend)
            shape = interface(kernel.row.role, with_weights)
            symbol = _unused(re.sub(r"\W", "_", kernel.target.format), used)
            text = backend.variant(kernel.row, kernel.target, shape, symbol, self._options)
            variants.append(text)
            path = [name, symbol, backend.export_name(kernel.row)]
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


def _unused(name: str, taken: set[str]) -> str:
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def backend_module(backend: str) -> BackendModule:
    return import_module(f".{backend}", __package__)
