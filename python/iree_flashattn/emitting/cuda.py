"""CUDA variants: the kernel's module image is the whole executable, picked by what the GPU is.

The launcher passes a pointer for each binding, in order, and then a 32-bit value for each constant.
Workgroup size and dynamic shared memory are properties of the export.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import resources
from ..choosing import Options
from ..choosing.cuda import device_checks
from ..target import Target
from .condition import condition
from .interface import Interface, count_arguments, grid_region

if TYPE_CHECKING:
    from ..catalog import Kernel


def image_name(row: Kernel) -> str:
    """Machine code for rows of one architecture, PTX for the others; as plugin/cuda/build.py."""
    return f"{row.name}.{'cubin' if row.target.get('only') else 'ptx'}"


ONE_VARIANT = False


def variant(
    rows: Sequence[Kernel],
    target: Target,
    interface: Interface,
    symbol: str,
    executable: str,
    options: Options,
) -> str:
    """The ``hal.executable.variant`` op with its condition, as text.

    The export is in the generic form: its custom form cannot say the properties.
    """
    (row,) = rows
    path = resources.kernel_file("cuda", image_name(row))
    x, y, z = (*row.workgroup, 1, 1)[:3]
    shared = [f"workgroup_local_memory = {row.scratch_bytes} : index"] if row.scratch_bytes else []
    properties = ", ".join(
        [
            f'sym_name = "{export_name(row, executable)}"',
            'sym_visibility = "public"',
            "ordinal = 0 : index",
            f"layout = {interface.layout}",
            f"workgroup_size = [{x} : index, {y} : index, {z} : index]",
            *shared,
        ]
    )
    return f"""
hal.executable.variant public @{symbol} target({target.attribute})
    objects([#hal.executable.object<{{path = "{path}"}}>]) {{
  {condition(device_checks(row, target))}
  "hal.executable.export"() <{{{properties}}}> ({{
  ^bb0({count_arguments()}):
    {_grid(row)}
  }}, {{}}) : () -> ()
}}"""


def export_name(row: Kernel, executable: str) -> str:
    """The kernel's symbol in the module image."""
    return row.name


def _grid(row: Kernel) -> str:
    """The row's grid, or (1, 2, 1), on which kernels do nothing, where that is empty.

    The driver refuses a launch of no blocks, and sizes known only at run time may be zero.
    """
    *lines, last = grid_region(row).splitlines()
    x, y, z = last.removeprefix("hal.return ").split(" : ")[0].split(", ")
    lines += [
        "%none = arith.constant 0 : index",
        "%alone = arith.constant 1 : index",
        "%pair = arith.constant 2 : index",
        f"%empty = arith.cmpi eq, {x}, %none : index",
        f"%blocks_x = arith.select %empty, %alone, {x} : index",
        f"%blocks_y = arith.select %empty, %pair, {y} : index",
        f"hal.return %blocks_x, %blocks_y, {z} : index, index, index",
    ]
    return "\n".join(lines)
