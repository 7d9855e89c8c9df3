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
from .condition import condition
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
  {condition(device_checks(row, target))}
  hal.executable.export public @{export_name(row, executable)} ordinal(0) layout({interface.layout})
      count({count_arguments()}) -> (index, index, index) {{
    {grid_region(row)}
  }}
}}"""


def export_name(row: Kernel, executable: str) -> str:
    """The entry point of the SPIR-V module."""
    return row.name
