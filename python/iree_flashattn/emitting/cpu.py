"""CPU variants: a shim in the module calls the kernel, which comes as an object file.

IREE's code generation turns the shim into the dispatch function: it stores the constants into an
array, takes the bindings' base pointers and the workgroup, and calls the kernel with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import resources
from ..abi import BINDING, WORD_COUNT
from ..choosing import Options
from ..target import Target
from .interface import Interface, count_arguments, grid_region

if TYPE_CHECKING:
    from ..catalog import Kernel

# Kernel parameters that are bindings, by role, in the order of the C signature
# (q, k, v, mask, bias, sinks, o, weights); None repeats the first binding, unread.
_PARAMETERS: dict[str, tuple[str | None, ...]] = {
    "forward": ("Q", "K", "V", "MASK", "BIAS", "SINKS", "O", "WEIGHTS"),
    "partial": ("Q", "K", "V", "MASK", "BIAS", "SINKS", "PARTIAL_O", "PARTIAL_ML"),
    "combine": (
        "COMBINE_O",
        "COMBINE_ML",
        None,
        None,
        None,
        "COMBINE_SINKS",
        "COMBINE_OUT",
        None,
    ),
}


def variant(
    row: Kernel, target: Target, interface: Interface, symbol: str, options: Options
) -> str:
    """The ``hal.executable.variant`` op, with the export and the shim, as text."""
    if options.cpu_link == "plugin":
        # An import without linkage is resolved by the runtime's executable plugin, which gets
        # the arguments packed in a struct.
        objects, linkage = "", ""
    else:
        path = resources.kernel_file("cpu", f"{row.name}.o")
        objects = f' objects([#hal.executable.object<{{path = "{path}"}}>])'
        linkage = "hal.import.static, "
    layout = interface.layout
    return f"""
hal.executable.variant public @{symbol} target({target.attribute}){objects} {{
  hal.executable.export public @{export_name(row)} ordinal(0) layout({layout})
      count({count_arguments()}) -> (index, index, index) {{
    {grid_region(row)}
  }}
  builtin.module {{
    func.func private @{row.name}{_signature(row)} attributes {{{linkage}llvm.bareptr = true}}
    func.func @{export_name(row)}() {{
      {_shim(row, interface)}
      return
    }}
  }}
}}"""


def export_name(row: Kernel) -> str:
    """The dispatch function; the kernel itself has the row's name."""
    return f"{row.name}_dispatch"


def _scratch_type(row: Kernel) -> str:
    return f"memref<{max(row.scratch_bytes, 64)}xi8, #iree_codegen.workgroup_local>"


def _signature(row: Kernel) -> str:
    pointers = ["memref<i8>"] * 8
    others = [f"memref<{WORD_COUNT}xi32>", "i32", "i32", "i32", _scratch_type(row)]
    return f"({', '.join(pointers + others)})"


def _shim(row: Kernel, interface: Interface) -> str:
    lines = ["%zero = arith.constant 0 : index"]
    lines.append(f"%words = memref.alloca() : memref<{WORD_COUNT}xi32>")
    layout = interface.layout
    for i in range(WORD_COUNT):
        lines += [
            f"%word{i} = hal.interface.constant.load layout({layout}) ordinal({i}) : i32",
            f"%at{i} = arith.constant {i} : index",
            f"memref.store %word{i}, %words[%at{i}] : memref<{WORD_COUNT}xi32>",
        ]
    for i in range(interface.bindings):
        lines.append(
            f"%binding{i} = hal.interface.binding.subspan layout({layout}) binding({i})"
            " alignment(64) offset(%zero) : memref<i8>"
        )
    for i, axis in enumerate("xyz"):
        lines += [
            f"%{axis} = hal.interface.workgroup.id[{i}] : index",
            f"%{axis}_word = arith.index_cast %{axis} : index to i32",
        ]
    lines.append(f"%scratch = memref.alloc() : {_scratch_type(row)}")
    numbers = [0 if name is None else BINDING[name] for name in _PARAMETERS[row.role]]
    pointers = [f"%binding{n if n < interface.bindings else 0}" for n in numbers]
    arguments = [*pointers, "%words", "%x_word", "%y_word", "%z_word", "%scratch"]
    lines.append(f"func.call @{row.name}({', '.join(arguments)}) : {_signature(row)} -> ()")
    return "\n      ".join(lines)
