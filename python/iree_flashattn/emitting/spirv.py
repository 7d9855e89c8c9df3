"""Vulkan variants: the SPIR-V module is the whole executable, picked by what the device has.

Bindings are storage buffers of set 0 in the order of the ABI, the constants are push constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import resources
from ..choosing import Options
from ..choosing.spirv import device_checks
from ..target import Target
from .interface import Interface, count_arguments, grid_region

if TYPE_CHECKING:
    from ..catalog import Kernel

# The only format whose external modules bind storage buffers; every driver build accepts it, also
# where generated code uses buffer addresses ("vulkan-spirv-bda-v1").
_FORMAT = "vulkan-spirv-fb"


ONE_VARIANT = False


def variant(
    rows: Sequence[Kernel],
    target: Target,
    interface: Interface,
    symbol: str,
    executable: str,
    options: Options,
) -> str:
    """The ``hal.executable.variant`` op with its condition, as text."""
    (row,) = rows
    path = resources.kernel_file("spirv", f"{row.name}.spv")
    attribute = target.attribute.replace(f'"{target.format}"', f'"{_FORMAT}"', 1)
    return f"""
hal.executable.variant public @{symbol} target({attribute})
    objects([#hal.executable.object<{{path = "{path}"}}>]) {{
  {_condition(row, target)}
  hal.executable.export public @{export_name(row, executable)} ordinal(0) layout({interface.layout})
      count({count_arguments()}) -> (index, index, index) {{
    {grid_region(row)}
  }}
}}"""


def export_name(row: Kernel, executable: str) -> str:
    """The entry point of the SPIR-V module."""
    return row.name


def _condition(row: Kernel, target: Target) -> str:
    """True on devices that answer every check of the row; an unknown query answers no."""
    checks = device_checks(row, target)
    if not checks:
        return ""
    lines = ["%no = arith.constant false", "%all0 = arith.constant true"]
    for i, (category, key, accepted) in enumerate(checks):
        lines.append(
            f"%ok{i}, %is{i} = hal.device.query<%device : !hal.device>"
            f' key("{category}" :: "{key}") : i1, i32'
        )
        found = "%no"
        for value in accepted:
            lines += [
                f"%value{i}_{value} = arith.constant {value} : i32",
                f"%same{i}_{value} = arith.cmpi eq, %is{i}, %value{i}_{value} : i32",
                f"%any{i}_{value} = arith.ori {found}, %same{i}_{value} : i1",
            ]
            found = f"%any{i}_{value}"
        lines += [
            f"%yes{i} = arith.andi %ok{i}, {found} : i1",
            f"%all{i + 1} = arith.andi %all{i}, %yes{i} : i1",
        ]
    lines.append(f"hal.return %all{len(checks)} : i1")
    body = "\n    ".join(lines)
    return f"hal.executable.condition(%device: !hal.device) -> i1 {{\n    {body}\n  }}"
