"""The dispatch function of a CPU executable: from IREE's calling convention to a kernel's.

It is written in the LLVM dialect, as the function that IREE's code generation would otherwise make
(``iree_hal_executable_dispatch_v0_t`` in IREE's runtime/src/iree/hal/local/executable_library.h):
``int f(const environment*, const dispatch_state*, const workgroup_state*)``. That has two reasons:
the constants and bindings already lie in memory as kernels want them, and the environment holds the
features of the processor that runs the module. So one executable can hold kernels for several
instruction sets and take the best one that the machine has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..catalog import Kernel

# Byte offsets in version 0.6 of the structures, on a 64-bit machine.
ENVIRONMENT = {"processor_data": 32}
DISPATCH_STATE = {"constants": 24, "binding_ptrs": 32}
WORKGROUP_STATE = {"x": 0, "y": 4, "z": 8, "local_memory": 16}

# Bits of processor_data[0] on x86-64, by LLVM's feature names (IREE's cpu_feature_bits.inl). IREE
# sets those of a register file only where the operating system keeps it.
X86_64_BITS = {
    "avx": 10,
    "fma": 11,
    "f16c": 14,
    "avx2": 15,
    "avx512f": 20,
    "avx512vl": 22,
    "avx512dq": 23,
    "avx512bw": 24,
    "avx512bf16": 31,
    "avx512fp16": 32,
}

IF_SUPPORTED = "_if_supported"  # at the end of an import's name; plugin/runtime/plugin.c knows it
_POINTERS = 9  # of the C signature: q, k, v, mask, bias, sinks, o, weights, lse
_PARAMETERS = ", ".join(["!llvm.ptr"] * (_POINTERS + 1) + ["i32"] * 3 + ["!llvm.ptr"])


def dispatch_function(
    name: str,
    rows: Sequence[Kernel],
    promised: frozenset[str],
    bindings: Sequence[int],
    imported: bool,
) -> str:
    """The inner module's functions, as text.

    ``rows`` run from best to worst; each one is asked for its features, less those that the target
    has ``promised``, and the last one asks for none. ``bindings`` are the binding numbers for the
    kernel's nine pointers. ``imported`` kernels come from the runtime's executable plugin.
    """
    lines = [*_arguments(bindings), *_processor(rows)]
    for number, row in enumerate(rows):
        following = f"^kernel{number + 1}"
        needed = sum(1 << X86_64_BITS[f] for f in _asked(row, promised))
        if needed:
            lines += [
                f"%mask{number} = llvm.mlir.constant({_signed(needed)} : i64) : i64",
                f"%have{number} = llvm.and %features, %mask{number} : i64",
                f'%ok{number} = llvm.icmp "eq" %have{number}, %mask{number} : i64',
                f"llvm.cond_br %ok{number}, ^call{number}, {following}",
                f"^call{number}:",
            ]
        lines.append(_call(_symbol(row, imported and bool(needed))))
        lines.append(f"%done{number} = llvm.mlir.constant(0 : i32) : i32")
        lines.append(f"llvm.return %done{number} : i32")
        if number + 1 < len(rows):
            lines.append(f"{following}:")
    body = "\n        ".join(lines)
    declarations = "\n      ".join(
        _declaration(_symbol(row, imported and bool(_asked(row, promised))), imported)
        for row in rows
    )
    arguments = ", ".join(f"%{a}: !llvm.ptr" for a in ("environment", "dispatch", "workgroup"))
    return f"""{declarations}
      llvm.func @{name}({arguments}) -> i32 {{
        {body}
      }}"""


def _asked(row: Kernel, promised: frozenset[str]) -> list[str]:
    return [f for f in row.target.get("features", ()) if f not in promised]


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


def _load(result: str, base: str, offset: int, kind: str) -> list[str]:
    return [
        f"{result}_at = llvm.getelementptr {base}[{offset}] : (!llvm.ptr) -> !llvm.ptr, i8",
        f"{result} = llvm.load {result}_at : !llvm.ptr -> {kind}",
    ]


def _arguments(bindings: Sequence[int]) -> list[str]:
    lines = _load("%words", "%dispatch", DISPATCH_STATE["constants"], "!llvm.ptr")
    lines += _load("%pointers", "%dispatch", DISPATCH_STATE["binding_ptrs"], "!llvm.ptr")
    for position, binding in enumerate(bindings):
        lines += _load(f"%p{position}", "%pointers", 8 * binding, "!llvm.ptr")
    lines += _load("%x", "%workgroup", WORKGROUP_STATE["x"], "i32")
    lines += _load("%y", "%workgroup", WORKGROUP_STATE["y"], "i32")
    lines += _load("%z16", "%workgroup", WORKGROUP_STATE["z"], "i16")
    lines.append("%z = llvm.zext %z16 : i16 to i32")
    return lines + _load("%scratch", "%workgroup", WORKGROUP_STATE["local_memory"], "!llvm.ptr")


def _processor(rows: Sequence[Kernel]) -> list[str]:
    if len(rows) == 1:
        return []
    return _load("%features", "%environment", ENVIRONMENT["processor_data"], "i64")


def _symbol(row: Kernel, guarded: bool) -> str:
    """The kernel's name. An import has to be resolved when a module is loaded: one that is called
    only where the processor has what it needs says so, for the runtime extension on the others."""
    return row.name + IF_SUPPORTED * guarded


def _call(symbol: str) -> str:
    pointers = [f"%p{i}" for i in range(_POINTERS)]
    values = ", ".join([*pointers, "%words", "%x", "%y", "%z", "%scratch"])
    return f"llvm.call @{symbol}({values}) : ({_PARAMETERS}) -> ()"


def _declaration(symbol: str, imported: bool) -> str:
    # Without the attribute IREE makes the call an import that the runtime resolves: through the
    # loader's thunk, the arguments packed in a struct.
    linkage = "" if imported else " attributes {hal.import.static}"
    return f"llvm.func @{symbol}({_PARAMETERS}){linkage}"
