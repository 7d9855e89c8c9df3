"""The text of a function, op by op: names, types, sizes, constants and arguments."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

NUMPY = {
    "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i1": np.bool_,
}  # fmt: skip
LARGEST = {name: float(ml_dtypes.finfo(NUMPY[name]).max) for name in ("f32", "f16", "bf16")}


@dataclass(frozen=True)
class Val:
    """A tensor value: its name in the text, its element type, and its elements."""

    name: str
    array: np.ndarray
    dtype: str = "f32"
    unknown: tuple[int, ...] = ()  # dims that one of these primes divides are known at run time

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def type(self) -> str:
        if self.dtype == "index":
            return "index"
        dims = ("?" if divides(self.unknown, n) else str(n) for n in self.shape)
        return "tensor<" + "".join(f"{n}x" for n in dims) + self.dtype + ">"


def divides(primes: tuple[int, ...], n: int) -> bool:
    return any(n % p == 0 for p in primes)


def overflowing(array: np.ndarray, dtype: str = "f32") -> np.ndarray:
    """Infinities where the element type has them."""
    return np.where(np.abs(array) > LARGEST[dtype], np.copysign(np.inf, array), array)


def rounded(array: np.ndarray | float, dtype: str) -> np.ndarray:
    """The nearest numbers of a float type, as float64."""
    with np.errstate(all="ignore"):
        return np.asarray(array, np.float64).astype(NUMPY[dtype]).astype(np.float64)


class Writer:
    """One function under construction."""

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        self.name = name
        self.rng = rng
        self.lines: list[str] = []
        self.inputs: list[Val] = []
        self.values: list[list[np.ndarray | None]] = []  # results of each op, in program order
        self.lost = 0.0  # the most that one value would lose if it were rounded to its type
        # Multiples of these primes are run-time sizes: a size says what it is made of.
        self.unknown: tuple[int, ...] = ()
        self._known_at: dict[int, list[tuple[Val, int]]] = {}  # size -> tensors that have it

    # -- plumbing --------------------------------------------------------------------------------
    def _fresh(self) -> str:
        return f"%v{len(self.values)}"

    def _val(self, name: str, array: np.ndarray, dtype: str = "f32") -> Val:
        value = Val(name, array, dtype, self.unknown)
        for i, n in enumerate(value.shape):
            if name and divides(self.unknown, n):
                self._known_at.setdefault(n, []).append((value, i))
        return value

    def size(self, n: int) -> str:
        """A size in the text: a number, or the value that holds it at run time."""
        if not divides(self.unknown, n):
            return str(n)
        places = self._known_at.get(n, [])
        if places and self.rng.random() < 0.9:
            x, dim = places[int(self.rng.integers(len(places)))]
            at = self.scalar(dim, "index")
            return self._emit(f"tensor.dim {x.name}, {at} : {x.type}", np.array(n))
        prime = next(p for p in self.unknown if n % p == 0)
        if n == prime:
            same = [x.name for x in self.inputs if x.dtype == "index" and x.array == n]
            if same and self.rng.random() < 0.8:
                return same[0]
            self.inputs.append(self._val(f"%in{len(self.inputs)}", np.array(n), "index"))
            return self.inputs[-1].name
        factors = [self._index(prime), self._index(n // prime)]
        return self._emit(f"arith.muli {', '.join(factors)} : index", np.array(n))

    def _index(self, n: int) -> str:
        text = self.size(n)
        return text if text.startswith("%") else self.scalar(n, "index")

    def _sizes(self, shape: tuple[int, ...]) -> str:
        return "[" + ", ".join([self.size(n) for n in shape]) + "]"

    def _emit(self, text: str, *arrays: np.ndarray | None) -> str:
        name = self._fresh()
        shown = name if len(arrays) == 1 else f"{name}:{len(arrays)}"
        self.lines.append(f"    {shown} = {text}")
        self.values.append(list(arrays))
        return name

    def input(self, shape: tuple[int, ...], dtype: str = "f32") -> Val:
        if dtype == "i1":
            array = self.rng.random(shape) < 0.7
        else:
            array = rounded(self.rng.standard_normal(shape), dtype)
        value = self._val(f"%in{len(self.inputs)}", array, dtype)
        self.inputs.append(value)
        return value

    def scalar(self, value: float | int | bool, dtype: str = "f32") -> str:
        if dtype == "i1":
            text = "true" if value else "false"
        elif dtype in LARGEST:
            text = f"{_float(value, dtype)} : {dtype}"
        else:
            text = f"{value} : {dtype}"
        known = np.array(value) if dtype == "index" else None
        return self._emit(f"arith.constant {text}", known)

    def _empty(self, shape: tuple[int, ...], dtype: str) -> Val:
        sizes = ", ".join([self.size(n) for n in shape if divides(self.unknown, n)])
        value = self._val("", np.zeros(shape, bool if dtype == "i1" else np.float64), dtype)
        return self._val(
            self._emit(f"tensor.empty({sizes}) : {value.type}", None), value.array, dtype
        )

    def fill(self, shape: tuple[int, ...], number: float, dtype: str = "f32") -> Val:
        constant = self.scalar(number, dtype)
        empty = self._empty(shape, dtype)
        array = np.full(shape, number, bool if dtype == "i1" else np.float64)
        if dtype in LARGEST:
            array = rounded(array, dtype)
        text = (f"linalg.fill ins({constant} : {dtype}) outs({empty.name} : {empty.type})"
                f" -> {empty.type}")  # fmt: skip
        return self._val(self._emit(text, array), array, dtype)

    def constant(self, array: np.ndarray, dtype: str = "f32") -> Val:
        """A tensor that is written into the program."""

        def show(x: np.ndarray) -> str:
            if x.ndim:
                return "[" + ", ".join(show(y) for y in x) + "]"
            if dtype == "i1":
                return "true" if x else "false"
            return _float(float(x), dtype) if dtype in LARGEST else str(int(x))

        known = array if dtype == "i1" else array.astype(np.float64)
        value = self._val("", rounded(known, dtype) if dtype in LARGEST else known, dtype)
        text = f"arith.constant dense<{show(array)}> : {value.type}"
        return self._val(self._emit(text, value.array), value.array, dtype)


def _float(value: float, dtype: str) -> str:
    """A number of a float type in the text, exactly."""
    if dtype == "f32":
        bits = np.float32(value).view(np.uint32)
        return f"{np.float32(value):.9e}" if np.isfinite(value) else f"0x{bits:08X}"
    with np.errstate(all="ignore"):
        bits = np.asarray(value, NUMPY[dtype]).view(np.uint16)
    return f"0x{int(bits):04X}"
