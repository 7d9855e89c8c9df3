"""Building scalar expressions with the foldings that are exact in the element type."""

from __future__ import annotations

import math
import struct

import numpy as np

from .axes import Lin
from .expr import Apply, Const, Node, Position

_FLOAT_BINARY = {
    "addf": lambda a, b: a + b,
    "subf": lambda a, b: a - b,
    "mulf": lambda a, b: a * b,
    "maximumf": lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else max(a, b),
    "minimumf": lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else min(a, b),
    "maxnumf": lambda a, b: b if math.isnan(a) else a if math.isnan(b) else max(a, b),
    "minnumf": lambda a, b: b if math.isnan(a) else a if math.isnan(b) else min(a, b),
}
_FLOAT_UNARY = {
    "negf": lambda a: -a,
    "absf": abs,
    "sqrt": lambda a: math.sqrt(a) if a >= 0 else math.nan,
    "rsqrt": lambda a: 1 / math.sqrt(a) if a > 0 else math.inf,
    "exp": lambda a: math.exp(a) if a < 700 else math.inf,
    "exp2": lambda a: 2.0**a if a < 1000 else math.inf,
    "tanh": math.tanh,
    "log": lambda a: math.log(a) if a > 0 else (-math.inf if a == 0 else math.nan),
}
_INT_BINARY = {
    "addi": lambda a, b: a + b,
    "subi": lambda a, b: a - b,
    "muli": lambda a, b: a * b,
    "andi": lambda a, b: a & b,
    "ori": lambda a, b: a | b,
    "xori": lambda a, b: a ^ b,
    "maxsi": max,
    "minsi": min,
}
CMPF = ("false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord",
        "ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true")  # fmt: skip
CMPI = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")
COMPARE = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
TRUE, FALSE = Const(True, "i1"), Const(False, "i1")


def rounded(value: float, dtype: str) -> float:
    """The value as its element type holds it."""
    if dtype == "f64" or math.isnan(value) or math.isinf(value):
        return float(value)
    with np.errstate(over="ignore"):
        if dtype == "f32":
            return float(np.float32(value))
        if dtype == "f16":
            return float(np.float16(value))
    if dtype == "bf16":
        bits = struct.unpack("<I", struct.pack("<f", float(np.float32(value))))[0]
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return struct.unpack("<f", struct.pack("<I", bits))[0]
    return float(value)


def _divide(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)
    return a / b


def negate(node: Node) -> Node:
    """Logical not of an i1 expression, with ``not`` pushed to the leaves by the mask rules."""
    if isinstance(node, Const):
        return FALSE if node.value else TRUE
    if isinstance(node, Apply) and node.name == "not":
        return node.args[0]
    return Apply("not", (node,), "i1")


def apply(name: str, args: tuple[Node, ...], dtype: str) -> Node:
    """The expression ``name(args)``, folded where that is exact."""
    if all(isinstance(a, Const) for a in args):
        folded = _fold(name, [a.value for a in args], dtype)  # type: ignore[attr-defined]
        if folded is not None:
            return folded
    if name == "reciprocal":
        return apply("divf", (Const(1.0, dtype), args[0]), dtype)
    if name == "square":
        return apply("mulf", (args[0], args[0]), dtype)
    if name in ("addf", "subf", "mulf", "divf"):
        return _float_identity(name, args, dtype)
    if name in ("addi", "subi", "muli"):
        linear = _linear(name, args)
        if linear is not None:
            return linear
    if name in ("index_cast", "index_castui", "extsi", "extui", "trunci"):
        if isinstance(args[0], Position) and _keeps_value(name, args[0].lin, dtype):
            return Position(args[0].lin, dtype)
        return Apply(name, args, dtype)
    if name in ("andi", "ori") and dtype == "i1":
        return _logic(name, args)
    if name == "xori" and dtype == "i1":
        for a, b in (args, args[::-1]):
            if isinstance(b, Const):
                return negate(a) if b.value else a
    if name.startswith("cmpi.") and len(args) == 2:
        return _compare_ints(name, args)
    if name == "select":
        condition, yes, no = args
        if isinstance(condition, Const):
            return yes if condition.value else no
        if yes == no:
            return yes
    return Apply(name, args, dtype)


def _fold(name: str, values: list, dtype: str) -> Node | None:
    if name in _FLOAT_BINARY:
        return Const(rounded(_FLOAT_BINARY[name](*values), dtype), dtype)
    if name == "divf":
        return Const(rounded(_divide(*values), dtype), dtype)
    if name in _FLOAT_UNARY:
        return Const(rounded(_FLOAT_UNARY[name](values[0]), dtype), dtype)
    if name in ("truncf", "extf", "sitofp", "uitofp"):
        return Const(rounded(float(values[0]), dtype), dtype)
    if name in _INT_BINARY:
        value = _INT_BINARY[name](int(values[0]), int(values[1]))
        return Const(bool(value & 1) if dtype == "i1" else value, dtype)
    if name in ("index_cast", "index_castui", "extsi", "extui", "trunci"):
        value = int(values[0])
        if name == "extsi" and values[0] is True:
            value = -1
        return Const(bool(value & 1) if dtype == "i1" else value, dtype)
    if name.startswith("cmpi."):
        predicate = name[5:]
        a, b = int(values[0]), int(values[1])
        if predicate[0] == "u" and (a < 0 or b < 0):
            return None
        return Const(COMPARE[predicate[-2:]](a, b), "i1")
    if name.startswith("cmpf."):
        return Const(_compare_floats(name[5:], float(values[0]), float(values[1])), "i1")
    if name == "select":
        return Const(values[1] if values[0] else values[2], dtype)
    if name == "not":
        return Const(not values[0], "i1")
    return None


def _compare_floats(predicate: str, a: float, b: float) -> bool:
    unordered = math.isnan(a) or math.isnan(b)
    if predicate in ("true", "false"):
        return predicate == "true"
    if predicate in ("ord", "uno"):
        return unordered == (predicate == "uno")
    if unordered:
        return predicate[0] == "u"
    return COMPARE[predicate[1:]](a, b)


def _float_identity(name: str, args: tuple[Node, ...], dtype: str) -> Node:
    a, b = args
    if isinstance(b, Const):
        if name in ("addf", "subf") and b.value == 0:
            return a
        if name in ("mulf", "divf") and b.value == 1:
            return a
    if isinstance(a, Const):
        if name == "addf" and a.value == 0:
            return b
        if name == "mulf" and a.value == 1:
            return b
    return Apply(name, args, dtype)


def as_lin(node: Node) -> Lin | None:
    """An integer expression as a linear form over axes."""
    if isinstance(node, Position):
        return node.lin
    if isinstance(node, Const) and isinstance(node.value, int):
        return Lin((), int(node.value))
    return None


def _keeps_value(name: str, lin: Lin, dtype: str) -> bool:
    """Whether a cast leaves a position as it is: positions fit 32 bits, and may be negative."""
    if dtype not in ("index", "i64", "i32"):
        return False
    if name not in ("extui", "index_castui"):
        return True
    numbers = [c for _, c in lin.terms] + [lin.const]
    return all(isinstance(n, int) and n >= 0 for n in numbers)


def _linear(name: str, args: tuple[Node, ...]) -> Node | None:
    a, b = as_lin(args[0]), as_lin(args[1])
    if a is None or b is None:
        return None
    dtype = next((x.dtype for x in args if isinstance(x, Position)), "index")
    if name == "addi":
        return Position(a.add(b), dtype)
    if name == "subi":
        return Position(a.add(b, -1), dtype)
    if not b.terms:
        return Position(a.scaled(b.const), dtype)
    if not a.terms:
        return Position(b.scaled(a.const), dtype)
    return None


def _logic(name: str, args: tuple[Node, ...]) -> Node:
    for a, b in (args, args[::-1]):
        if isinstance(a, Const):
            absorbing = name == "ori"
            return a if bool(a.value) == absorbing else b
    return args[0] if args[0] == args[1] else Apply(name, args, "i1")


def _compare_ints(name: str, args: tuple[Node, ...]) -> Node:
    a, b = args
    if isinstance(b, Const) and a.dtype == "i1" and name in ("cmpi.eq", "cmpi.ne"):  # type: ignore[attr-defined]
        return a if bool(b.value) == (name == "cmpi.eq") else negate(a)
    if isinstance(b, Const) and b.value == 0 and name in ("cmpi.eq", "cmpi.ne"):
        inner = a
        while isinstance(inner, Apply) and inner.name in ("extui", "extsi"):
            inner = inner.args[0]
        if inner is not a and inner.dtype == "i1":  # type: ignore[attr-defined]
            return inner if name == "cmpi.ne" else negate(inner)
    decided = _decided(name[5:], a, b)
    return Apply(name, args, "i1") if decided is None else Const(decided, "i1")


def _decided(predicate: str, a: Node, b: Node) -> bool | None:
    """A comparison of positions that holds, or fails, wherever the axes are."""
    left, right = as_lin(a), as_lin(b)
    if left is None or right is None or predicate[0] == "u":
        return None
    low, high = _bounds(left.add(right, -1))
    if low is None or high is None:
        return None
    if predicate in ("slt", "sge") and (high < 0 or low >= 0):
        return (high < 0) == (predicate == "slt")
    if predicate in ("sle", "sgt") and (high <= 0 or low > 0):
        return (high <= 0) == (predicate == "sle")
    return None


def _bounds(lin: Lin) -> tuple[float | None, float | None]:
    """(least, largest) value of a form; infinite where a size is known only at run time."""
    if not isinstance(lin.const, int):
        return None, None
    low: float = lin.const
    high: float = lin.const
    for atom, c in lin.terms:
        if not isinstance(c, int):
            return None, None
        reach = c * (atom.extent - 1) if isinstance(atom.extent, int) else c * math.inf
        low, high = low + min(0, reach), high + max(0, reach)
    return low, high
