"""Values of constant tensors, and expressions of them evaluated over a grid of coordinates."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from iree.compiler import ir

from .axes import Atom
from .expr import Apply, Const, Load, Node, Position
from .reader import Reader

_DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "i64": np.int64,
           "i32": np.int32, "i16": np.int16, "i8": np.int8}  # fmt: skip
_LARGEST = 1 << 24  # elements: a mask of 4096 x 4096
_TOKEN = re.compile(r"[^\s,\[\]]+")
_BLOB = re.compile(r'"0x([0-9A-Fa-f]*)"')


class NotConstant(Exception):
    """The expression has a value that is known only at run time, or is too big to look at."""


def array_of(attribute: ir.Attribute, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The elements of a dense or dense_resource attribute. Raises :class:`NotConstant`."""
    count = int(np.prod(shape, dtype=np.int64))
    if count > _LARGEST:
        raise NotConstant
    if isinstance(attribute, ir.DenseElementsAttr):
        if dtype == "bf16":
            return _dense_bf16(attribute, count).reshape(shape)
        return np.array(attribute).reshape(shape)
    text = str(attribute)
    if not text.startswith("dense_resource<"):
        raise NotConstant
    data = resource_bytes(attribute)
    if dtype == "i1":
        return np.frombuffer(data, np.uint8)[:count].reshape(shape).astype(bool)
    if dtype == "bf16":
        return _widened(np.frombuffer(data, np.uint16))[:count].reshape(shape)
    kind = _DTYPES.get(dtype)
    if kind is None:
        raise NotConstant
    return np.frombuffer(data, kind)[:count].reshape(shape)


def _widened(bf16_bits: np.ndarray) -> np.ndarray:
    return (bf16_bits.astype(np.uint32) << 16).view(np.float32)


def _dense_bf16(attribute: ir.DenseElementsAttr, count: int) -> np.ndarray:
    """What the bindings do not give: the text has many elements as one run of hexadecimal digits
    and few one by one, as numbers or as bits."""
    if attribute.is_splat:
        number = ir.FloatAttr(attribute.get_splat_value()).value
        return np.full(count, number, np.float32)
    elements = str(attribute).partition("dense<")[2].rpartition("> : ")[0]
    if elements.startswith('"0x'):
        return _widened(np.frombuffer(bytes.fromhex(elements[3:-1]), np.uint16))

    def number_of(token: str) -> float:
        if token.startswith("0x"):
            return float(_widened(np.array([int(token, 16)], np.uint16))[0])
        return float(token)

    return np.float32([number_of(token) for token in _TOKEN.findall(elements)])


def resource_bytes(attribute: ir.Attribute) -> bytes:
    """The blob behind a resource handle: printing an op with it is the one way to see it."""
    context = attribute.context
    with context, ir.Location.unknown(context):
        holder = ir.Module.create()
        with ir.InsertionPoint(holder.body):
            ir.Operation.create(
                "util.global",
                attributes={
                    "sym_name": ir.StringAttr.get("x"),
                    "type": ir.TypeAttr.get(attribute.type),
                    "initial_value": attribute,
                    "sym_visibility": ir.StringAttr.get("private"),
                },
            )
        text = str(holder)
    match = _BLOB.search(text)
    if match is None:
        raise NotConstant
    return bytes.fromhex(match.group(1))[4:]  # the first four bytes are the alignment


class Constants:
    """Arrays of constant tensor values of a module, read once."""

    def __init__(self, reader: Reader) -> None:
        self.shared = reader.shared
        cache = getattr(self.shared, "arrays", None)
        if cache is None:
            cache = self.shared.arrays = {}
        self.cache: dict[ir.Value, np.ndarray | None] = cache

    def of_value(self, value: ir.Value) -> np.ndarray:
        self.shared.index.producer(value)  # a trace has to know it, read before or not
        if value not in self.cache:
            try:
                self.cache[value] = self._read(value)
            except NotConstant:
                self.cache[value] = None
        array = self.cache[value]
        if array is None:
            raise NotConstant
        return array

    def _read(self, value: ir.Value) -> np.ndarray:
        op = self.shared.index.producer(value)
        attribute = None
        if op is not None and op.name == "arith.constant":
            attribute = op.attributes["value"]
        elif op is not None and op.name == "util.global.load":
            target = self.shared.globals.get(str(op.attributes["global"]).lstrip("@"))
            immutable = target is not None and "is_mutable" not in target.attributes
            if immutable and "initial_value" in target.attributes:
                attribute = target.attributes["initial_value"]
        if attribute is None or not value.type.has_static_shape:
            raise NotConstant
        return array_of(attribute, self.shared.element(value), tuple(value.type.shape))


_UNARY: dict[str, Callable] = {
    "not": np.logical_not, "negf": np.negative, "absf": np.abs, "absi": np.abs,
    "index_cast": lambda a: a, "index_castui": lambda a: a, "extui": lambda a: a.astype(np.int64),
    "sitofp": lambda a: a.astype(np.float64), "uitofp": lambda a: a.astype(np.float64),
    "extf": lambda a: a,
}  # fmt: skip
_BINARY: dict[str, Callable] = {
    "addi": np.add, "subi": np.subtract, "muli": np.multiply, "andi": np.bitwise_and,
    "ori": np.bitwise_or, "xori": np.bitwise_xor, "maxsi": np.maximum, "minsi": np.minimum,
    "addf": np.add, "subf": np.subtract, "mulf": np.multiply, "divf": np.divide, "remsi": np.fmod,
    "remui": np.fmod, "floordivsi": np.floor_divide,
    "divui": lambda a, b: a // b,
    "divsi": lambda a, b: (np.abs(a) // np.abs(b)) * np.sign(a) * np.sign(b),
}  # fmt: skip
_COMPARE: dict[str, Callable] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


def operation_on_arrays(n: Apply, args: list[np.ndarray]) -> np.ndarray:
    """One operation of an expression on whole arrays. Raises :class:`NotConstant`."""
    if n.name == "select":
        return np.where(*args)
    if n.name in _UNARY:
        return _UNARY[n.name](args[0])
    if n.name == "truncf":
        if n.dtype not in ("f32", "f16"):
            raise NotConstant
        return args[0].astype(_DTYPES[n.dtype])
    if n.name in ("trunci", "extsi"):
        value = args[0]
        if n.name == "extsi" and value.dtype == bool:
            return -value.astype(np.int64)
        return (value & 1).astype(bool) if n.dtype == "i1" else value
    if n.name in _BINARY:
        a, b = args
        if n.name in ("divui", "divsi", "remsi", "remui", "floordivsi") and np.any(b == 0):
            raise NotConstant
        return _BINARY[n.name](a, b)
    kind, _, predicate = n.name.partition(".")
    if kind not in ("cmpi", "cmpf") or predicate in ("true", "false"):
        raise NotConstant
    a, b = args
    if kind == "cmpi":
        if predicate[0] == "u" and (np.any(a < 0) or np.any(b < 0)):
            raise NotConstant
        return _COMPARE[predicate[-2:]](a, b)
    unordered = np.isnan(a) | np.isnan(b)
    if predicate in ("uno", "ord"):
        return unordered if predicate == "uno" else ~unordered
    result = _COMPARE[predicate[1:]](a, b)
    return result | unordered if predicate[0] == "u" else result & ~unordered


def evaluate(reader: Reader, node: Node, atoms: list[Atom]) -> np.ndarray:
    """The expression over the grid of ``atoms`` (an array axis each, 1 where it does not vary).

    Raises :class:`NotConstant`.
    """
    constants = Constants(reader)
    size = 1
    for atom in atoms:
        if not isinstance(atom.extent, int):
            raise NotConstant
        size *= atom.extent
    if size > _LARGEST:
        raise NotConstant
    axis_of = {atom: i for i, atom in enumerate(atoms)}
    rank = len(atoms)

    def grid(lin) -> np.ndarray:
        lin = reader.space.resolve(lin)
        if not isinstance(lin.const, int):
            raise NotConstant
        total = np.full((1,) * rank, lin.const, np.int64)
        for atom, c in lin.terms:
            if atom not in axis_of or not isinstance(c, int):
                raise NotConstant
            shape = [1] * rank
            shape[axis_of[atom]] = atom.extent
            total = total + c * np.arange(atom.extent).reshape(shape)
        return total

    def walk(n: Node) -> np.ndarray:
        n = reader.head(n)
        if isinstance(n, Const):
            return np.full((1,) * rank, n.value)
        if isinstance(n, Position):
            return grid(n.lin)
        if isinstance(n, Load):
            array = constants.of_value(n.value)
            index = tuple(grid(c) for c in n.coords)
            return array[index] if index else np.full((1,) * rank, array)
        if isinstance(n, Apply):
            return operation_on_arrays(n, [walk(a) for a in n.args])
        raise NotConstant

    with np.errstate(all="ignore"):
        return walk(node)
