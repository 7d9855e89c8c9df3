"""CPU variants: a dispatch function in the module calls kernels that come as object files.

Rows for several instruction sets may stand in one variant: the best one that the machine can run is
taken when the workgroup starts (cpu_shim.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import resources
from ..abi import BINDING
from ..choosing import Options
from ..target import Target
from .cpu_shim import dispatch_function
from .interface import Interface, count_arguments, grid_region

if TYPE_CHECKING:
    from ..catalog import Kernel

ONE_VARIANT = True

# Kernel parameters that are bindings, by role, in the order of the C signature
# (q, k, v, mask, bias, sinks, o, weights, lse); None repeats the first binding, unread.
_PARAMETERS: dict[str, tuple[str | None, ...]] = {
    "forward": ("Q", "K", "V", "MASK", "BIAS", "SINKS", "O", "WEIGHTS", "LSE"),
    "partial": ("Q", "K", "V", "MASK", "BIAS", "SINKS", "PARTIAL_O", "PARTIAL_ML", None),
    "combine": (
        "COMBINE_O",
        "COMBINE_ML",
        None,
        None,
        None,
        "COMBINE_SINKS",
        "COMBINE_OUT",
        None,
        "COMBINE_LSE",
    ),
}


def variant(
    rows: Sequence[Kernel],
    target: Target,
    interface: Interface,
    symbol: str,
    executable: str,
    options: Options,
) -> str:
    """The ``hal.executable.variant`` op, with the export and the dispatch function, as text.

    The export is in the generic form: its custom form cannot say the local memory.
    """
    if len({(row.q_tile, row.grid) for row in rows}) != 1:
        names = ", ".join(row.name for row in rows)
        raise ValueError(f"kernels of one variant need one grid: {names}")
    imported = options.cpu_link == "plugin"
    objects = ""
    if not imported:
        paths = [resources.kernel_file("cpu", f"{row.name}.o") for row in rows]
        listed = ", ".join(f'#hal.executable.object<{{path = "{path}"}}>' for path in paths)
        objects = f" objects([{listed}])"
    name = export_name(rows[0], executable)
    scratch = max(64, *(row.scratch_bytes for row in rows))
    properties = ", ".join(
        [
            f'sym_name = "{name}"',
            'sym_visibility = "public"',
            "ordinal = 0 : index",
            f"layout = {interface.layout}",
            f"workgroup_local_memory = {scratch} : index",
        ]
    )
    function = dispatch_function(
        name, rows, target.features, _bindings(rows[0].role, interface), imported
    )
    return f"""
hal.executable.variant public @{symbol} target({target.attribute}){objects} {{
  "hal.executable.export"() <{{{properties}}}> ({{
  ^bb0({count_arguments()}):
    {grid_region(rows[0])}
  }}, {{}}) : () -> ()
  builtin.module {{
      {function}
  }}
}}"""


def export_name(row: Kernel, executable: str) -> str:
    """The dispatch function. IREE links a module's CPU executables into one, so it is named after
    the executable: several of them may hold the same kernel."""
    return f"{executable}_dispatch"


def _bindings(role: str, interface: Interface) -> list[int]:
    numbers = [0 if name is None else BINDING[name] for name in _PARAMETERS[role]]
    return [n if n < interface.bindings else 0 for n in numbers]
