"""Bindings of a kernel by role, as the ABI header numbers them, and its grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..abi import BINDING, WORD_COUNT

if TYPE_CHECKING:
    from ..catalog import Kernel

# Of flow.dispatch, in this order; each variant computes its own grid from them.
WORKLOAD = ("q_len", "heads", "kv_heads", "batch", "splits")


@dataclass(frozen=True)
class Interface:
    """``inputs`` bindings, of which ``in_place`` is written, then ``outputs`` written ones."""

    inputs: int
    outputs: int
    in_place: int | None = None

    @property
    def bindings(self) -> int:
        return self.inputs + self.outputs

    @property
    def layout(self) -> str:
        """The ``#hal.pipeline.layout`` of the export."""
        read = '#hal.pipeline.binding<storage_buffer, "ReadOnly|Indirect">'
        write = "#hal.pipeline.binding<storage_buffer, Indirect>"
        inputs = [write if i == self.in_place else read for i in range(self.inputs)]
        bindings = ", ".join(inputs + [write] * self.outputs)
        return (
            f"#hal.pipeline.layout<constants = {WORD_COUNT}, bindings = [{bindings}],"
            " flags = Indirect>"
        )


def interface(role: str, with_weights: bool, with_lse: bool) -> Interface:
    if role == "forward":
        lse = BINDING["LSE"] if with_lse else None
        return Interface(BINDING["O"], 2 if with_weights else 1, lse)
    if role == "partial":
        return Interface(BINDING["PARTIAL_O"], 2)
    if role == "combine":
        lse = BINDING["COMBINE_LSE"] if with_lse else None
        return Interface(BINDING["COMBINE_OUT"], 1, lse)
    raise ValueError(f"role {role!r} is not forward, partial or combine")


def grid_region(row: Kernel) -> str:
    """The body of ``count(…) -> (index, index, index) {…}`` for the row's grid expressions."""
    lines = [f"%tile = arith.constant {row.q_tile} : index"]
    used = " ".join(row.grid)
    if "q_blocks" in used.replace("packed_blocks", ""):
        lines.append("%q_blocks = arith.ceildivui %q_len, %tile : index")
    if "packed_blocks" in used:
        lines += [
            "%all_rows = arith.muli %q_len, %heads : index",
            "%packed = arith.divui %all_rows, %kv_heads : index",
            "%packed_blocks = arith.ceildivui %packed, %tile : index",
        ]
    axes = []
    for axis, expression in zip("xyz", row.grid, strict=True):
        value = ""
        for i, factor in enumerate(f.strip() for f in str(expression).split("*")):
            name = f"%{factor}"
            if factor.isdigit():
                name = f"%{axis}_literal{i}"
                lines.append(f"{name} = arith.constant {factor} : index")
            if value:
                lines.append(f"%{axis}_product{i} = arith.muli {value}, {name} : index")
                name = f"%{axis}_product{i}"
            value = name
        axes.append(value)
    lines.append(f"hal.return {', '.join(axes)} : index, index, index")
    return "\n".join(lines)


def count_arguments() -> str:
    return "%device: !hal.device, " + ", ".join(f"%{name}: index" for name in WORKLOAD)
