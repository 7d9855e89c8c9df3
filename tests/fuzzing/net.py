"""Programs in linalg and their values at the same time.

A :class:`Net` writes one function of linalg on tensors, op by op, and computes every value with
NumPy in float64 while it does. So whatever is composed has its oracle, near misses included.
"""

from __future__ import annotations

import numpy as np

from fuzzing.writer import LARGEST, Val, Writer, divides, overflowing, rounded


def _maps(rank: int, results: list[list[int | None]]) -> str:
    """Affine maps from dimension lists; None is the constant 0."""
    dims = ", ".join(f"d{i}" for i in range(rank))
    texts = []
    for result in results:
        inner = ", ".join("0" if d is None else f"d{d}" for d in result)
        texts.append(f"affine_map<({dims}) -> ({inner})>")
    return "[" + ", ".join(texts) + "]"


class Net(Writer):
    """A function, its ops and their values."""

    # -- structure -------------------------------------------------------------------------------
    def transpose(self, x: Val, permutation: list[int], generic: bool = False) -> Val:
        array = np.transpose(x.array, permutation)
        if not generic:
            empty = self._empty(array.shape, x.dtype)
            text = (f"linalg.transpose ins({x.name} : {x.type}) outs({empty.name} : {empty.type})"
                    f" permutation = {permutation}")  # fmt: skip
            return self._val(self._emit(text, array), array, x.dtype)
        source = [permutation.index(d) for d in range(len(permutation))]
        return self.elementwise([(x, source)], array.shape, [], "%b0", lambda a: a, x.dtype)

    def reshape(self, x: Val, groups: list[list[int]], shape: tuple[int, ...]) -> Val:
        """collapse_shape (fewer dims) or expand_shape with this reassociation."""
        array = x.array.reshape(shape)
        result = self._val("", array, x.dtype)
        # (the stock compiler takes no computed shape of one dim)
        if len(shape) > 1 and divides(self.unknown, array.size) and self.rng.random() < 0.3:
            numbers = [self._index(n) for n in shape]
            kind = f"tensor<{len(shape)}xindex>"
            target = self._emit(f"tensor.from_elements {', '.join(numbers)} : {kind}", None)
            text = f"tensor.reshape {x.name}({target}) : ({x.type}, {kind}) -> {result.type}"
        elif len(shape) < len(x.shape):
            text = f"tensor.collapse_shape {x.name} {groups} : {x.type} into {result.type}"
        else:
            text = (f"tensor.expand_shape {x.name} {groups} output_shape {self._sizes(shape)}"
                    f" : {x.type} into {result.type}")  # fmt: skip
        return self._val(self._emit(text, array), array, x.dtype)

    def slice(self, x: Val, dim: int, start: int, size: int) -> Val:
        index = [slice(None)] * len(x.shape)
        index[dim] = slice(start, start + size)
        array = x.array[tuple(index)]
        offsets = [start if d == dim else 0 for d in range(len(x.shape))]
        result = self._val("", array, x.dtype)
        text = (f"tensor.extract_slice {x.name}{offsets} {self._sizes(array.shape)}"
                f" {[1] * len(x.shape)} : {x.type} to {result.type}")  # fmt: skip
        return self._val(self._emit(text, array), array, x.dtype)

    def concat(self, xs: list[Val], dim: int) -> Val:
        array = np.concatenate([x.array for x in xs], dim)
        result = self._val("", array, xs[0].dtype)
        names, types = ", ".join(x.name for x in xs), ", ".join(x.type for x in xs)
        text = f"tensor.concat dim({dim}) {names} : ({types}) -> {result.type}"
        return self._val(self._emit(text, array), array, xs[0].dtype)

    def insert(self, xs: list[Val], dim: int) -> Val:
        """The concatenation as StableHLO writes it: slices inserted into an empty tensor."""
        array = np.concatenate([x.array for x in xs], dim)
        into, start = self._empty(array.shape, xs[0].dtype), 0
        for number, x in enumerate(xs):
            offsets = [start if d == dim else 0 for d in range(len(x.shape))]
            text = (f"tensor.insert_slice {x.name} into {into.name}{offsets} {list(x.shape)}"
                    f" {[1] * len(x.shape)} : {x.type} into {into.type}")  # fmt: skip
            known = array if number == len(xs) - 1 else None
            into = self._val(self._emit(text, known), array, x.dtype)
            start += x.shape[dim]
        return into

    # -- arithmetic ------------------------------------------------------------------------------
    def elementwise(
        self,
        operands: list[tuple[Val, list[int | None]]],
        shape: tuple[int, ...],
        body: list[str],
        result: str,
        compute,
        dtype: str = "f32",
    ) -> Val:
        """A parallel generic; operands come with the dims that they are read with.

        Values stay float64, but what overflows in the element type does here, too.
        """
        rank = len(shape)
        arrays = []
        for x, dims in operands:
            source = x.array
            keep = [i for i, d in enumerate(dims) if d is not None]
            source = source[tuple(slice(None) if d is not None else 0 for d in dims)]
            order = sorted(range(len(keep)), key=lambda i: dims[keep[i]])  # type: ignore[arg-type,return-value]
            source = np.transpose(source, order)
            used = {dims[i] for i in keep}
            arrays.append(source.reshape([shape[d] if d in used else 1 for d in range(rank)]))
        with np.errstate(all="ignore"):
            array = np.broadcast_to(compute(*arrays), shape).copy()
        if dtype in LARGEST:
            array = overflowing(array, dtype)
            with np.errstate(all="ignore"):
                lost = np.abs(rounded(array, dtype) - array)
            self.lost = max(self.lost, float(np.nan_to_num(lost, posinf=0.0).max(initial=0.0)))
        empty = self._empty(shape, dtype)
        maps = _maps(rank, [dims for _, dims in operands] + [list(range(rank))])
        return self._generic(
            maps, ["parallel"] * rank, [x for x, _ in operands], [empty], body, [result], [array]
        )[0]

    def _generic(
        self, maps: str, kinds: list[str], ins: list[Val], outs: list[Val], body: list[str],
        results: list[str], arrays: list[np.ndarray],
    ) -> list[Val]:  # fmt: skip
        iterators = ", ".join(f'"{k}"' for k in kinds)
        arguments = [f"%b{i}: {x.dtype}" for i, x in enumerate(ins)]
        arguments += [f"%o{i}: {x.dtype}" for i, x in enumerate(outs)]
        inputs = ""
        if ins:
            inputs = f" ins({', '.join(x.name for x in ins)} : {', '.join(x.type for x in ins)})"
        types = ", ".join(x.type for x in outs)
        shown = types if len(outs) == 1 else f"({types})"
        text = (
            f"linalg.generic {{indexing_maps = {maps}, iterator_types = [{iterators}]}}{inputs}"
            f" outs({', '.join(x.name for x in outs)} : {types}) {{\n"
            f"    ^bb0({', '.join(arguments)}):\n"
            + "".join(f"      {line}\n" for line in body)
            + f"      linalg.yield {', '.join(results)} : {', '.join(x.dtype for x in outs)}\n"
            f"    }} -> {shown}"
        )
        name = self._emit(text, *arrays)
        if len(outs) == 1:
            return [self._val(name, arrays[0], outs[0].dtype)]
        pairs = enumerate(zip(arrays, outs, strict=True))
        return [self._val(f"{name}#{i}", a, o.dtype) for i, (a, o) in pairs]

    def unary(self, x: Val, op: str, compute) -> Val:
        dims = list(range(len(x.shape)))
        body = [f"%r = {op} %b0 : {x.dtype}"]
        return self.elementwise([(x, dims)], x.shape, body, "%r", compute, x.dtype)

    def cast(self, x: Val, dtype: str) -> Val:
        if x.dtype == dtype:
            return x
        op = "extf" if dtype == "f32" else "truncf"
        dims = list(range(len(x.shape)))
        body = [f"%r = arith.{op} %b0 : {x.dtype} to {dtype}"]
        return self.elementwise([(x, dims)], x.shape, body, "%r", lambda a: a, dtype)

    def with_scalar(self, x: Val, op: str, number: float) -> Val:
        """x * c or x / c with a constant from outside the region."""
        constant = self.scalar(number, x.dtype)
        number = float(rounded(number, x.dtype))
        compute = (lambda a: a * number) if op == "mulf" else (lambda a: a / number)
        dims = list(range(len(x.shape)))
        body = [f"%r = arith.{op} %b0, {constant} : {x.dtype}"]
        return self.elementwise([(x, dims)], x.shape, body, "%r", compute, x.dtype)

    def binary(self, x: Val, y: Val, y_dims: list[int | None], op: str, flip: bool = False) -> Val:
        """op(x, y) with y read at some of x's dims."""
        compute = {
            "addf": np.add, "subf": np.subtract, "mulf": np.multiply, "divf": _divide,
        }[op]  # fmt: skip
        a, b = ("%b1", "%b0") if flip else ("%b0", "%b1")
        chosen = (lambda p, q: compute(q, p)) if flip else compute
        dims: list[int | None] = list(range(len(x.shape)))
        body = [f"%r = arith.{op} {a}, {b} : {x.dtype}"]
        return self.elementwise([(x, dims), (y, y_dims)], x.shape, body, "%r", chosen, x.dtype)

    def both(self, x: Val, x_dims: list[int | None], y: Val, y_dims: list[int | None],
             shape: tuple[int, ...]) -> Val:  # fmt: skip
        """x and y, two boolean tensors."""
        body = ["%r = arith.andi %b0, %b1 : i1"]
        return self.elementwise([(x, x_dims), (y, y_dims)], shape, body, "%r", np.logical_and, "i1")

    def select(self, mask: Val, dims: list[int | None], x: Val, number: float, keeps: bool) -> Val:
        constant = self.scalar(number, x.dtype)
        number = float(rounded(number, x.dtype))
        a, b = ("%b1", constant) if keeps else (constant, "%b1")
        all_dims: list[int | None] = list(range(len(x.shape)))
        return self.elementwise(
            [(mask, dims), (x, all_dims)], x.shape,
            [f"%r = arith.select %b0, {a}, {b} : {x.dtype}"],
            "%r", lambda m, s: np.where(m == keeps, s, number), x.dtype,
        )  # fmt: skip

    def compare(self, x: Val, predicate: str, number: float, compute) -> Val:
        """cmpf of each element and a constant."""
        constant = self.scalar(number, x.dtype)
        dims: list[int | None] = list(range(len(x.shape)))
        body = [f"%r = arith.cmpf {predicate}, %b0, {constant} : {x.dtype}"]
        return self.elementwise([(x, dims)], x.shape, body, "%r", compute, "i1")

    def band(self, shape: tuple[int, int], offset: int, predicate: str) -> Val:
        """i1[rows, keys]: row + offset (sge | slt) key."""
        rows = np.arange(shape[0])[:, None] + offset
        keys = np.arange(shape[1])[None, :]
        array = rows >= keys if predicate == "sge" else rows < keys
        constant = self.scalar(offset, "index")
        body = [
            "%i = linalg.index 0 : index",
            "%j = linalg.index 1 : index",
            f"%k = arith.addi %i, {constant} : index",
            f"%r = arith.cmpi {predicate}, %k, %j : index",
        ]
        return self.elementwise([], shape, body, "%r", lambda: array, "i1")

    def contract(
        self, a: Val, a_dims: list[int], b: Val, b_dims: list[int], out_dims: list[int],
        sizes: dict[int, int],
    ) -> Val:  # fmt: skip
        """A generic sum of products; dims number the loops."""
        rank = len(sizes)
        letters = "abcdefghij"
        spec = (
            "".join(letters[d] for d in a_dims) + "," + "".join(letters[d] for d in b_dims)
            + "->" + "".join(letters[d] for d in out_dims)
        )  # fmt: skip
        with np.errstate(all="ignore"):
            array = np.einsum(spec, a.array, b.array)
        init = self.fill(tuple(sizes[d] for d in out_dims), 0.0)
        kinds = ["parallel" if d in out_dims else "reduction" for d in range(rank)]
        body = ["%m = arith.mulf %b0, %b1 : f32", "%r = arith.addf %o0, %m : f32"]
        if a.dtype != "f32":  # 16-bit operands, sums in f32
            wide = [f"%w{i} = arith.extf %b{i} : {a.dtype} to f32" for i in (0, 1)]
            body = [*wide, body[0].replace("%b", "%w"), body[1]]
        maps = _maps(rank, [list(a_dims), list(b_dims), list(out_dims)])
        return self._generic(maps, kinds, [a, b], [init], body, ["%r"], [array])[0]

    def batch_matmul(self, a: Val, b: Val) -> Val:
        with np.errstate(all="ignore"):
            array = a.array @ b.array
        init = self.fill(array.shape, 0.0)
        text = (f"linalg.batch_matmul ins({a.name}, {b.name} : {a.type}, {b.type})"
                f" outs({init.name} : {init.type}) -> {init.type}")  # fmt: skip
        return self._val(self._emit(text, array), array)

    def reduce(self, x: Val, dim: int, op: str, keep: bool, start: float, index: bool) -> Val:
        """Maximum or sum over one dim; ``index`` adds the dead i64 result of torch's max."""
        rank = len(x.shape)
        numpy_op = {
            "maximumf": np.max, "minimumf": np.min, "addf": np.sum, "ori": np.any, "andi": np.all,
        }[op]  # fmt: skip
        array = numpy_op(x.array, axis=dim, keepdims=keep)
        if op == "maximumf":
            array = np.maximum(array, rounded(start, x.dtype))
        out: list[int | None] = [None if d == dim else d for d in range(rank)]
        if not keep:
            out = [d for d in out if d is not None]
        init = self.fill(array.shape, start, x.dtype)
        kinds = ["reduction" if d == dim else "parallel" for d in range(rank)]
        body = [f"%r = arith.{op} %b0, %o0 : {x.dtype}"]
        if not index:
            maps = _maps(rank, [list(range(rank)), out])
            return self._generic(maps, kinds, [x], [init], body, ["%r"], [array])[0]
        second = self.fill(array.shape, 0, "i64")
        body += [
            f"%x = linalg.index {dim} : index", "%y = arith.index_cast %x : index to i64",
            f"%c = arith.cmpf ogt, %b0, %o0 : {x.dtype}", "%s = arith.select %c, %y, %o1 : i64",
        ]  # fmt: skip
        maps = _maps(rank, [list(range(rank)), out, out])
        winners = np.zeros(array.shape)
        return self._generic(
            maps, kinds, [x], [init, second], body, ["%r", "%s"], [array, winners]
        )[0]

    def softmax(self, x: Val, dim: int) -> Val:
        with np.errstate(all="ignore"):
            e = np.exp(x.array - x.array.max(axis=dim, keepdims=True))
            array = e / e.sum(axis=dim, keepdims=True)
        empty = self._empty(x.shape, x.dtype)
        text = (f"linalg.softmax dimension({dim}) ins({x.name} : {x.type})"
                f" outs({empty.name} : {empty.type}) -> {empty.type}")  # fmt: skip
        return self._val(self._emit(text, array), array, x.dtype)

    def function(self, results: list[Val]) -> str:
        arguments = ", ".join(f"{x.name}: {x.type}" for x in self.inputs)
        types = ", ".join(x.type for x in results)
        return (
            f"  func.func @{self.name}({arguments}) -> ({types}) {{\n"
            + "\n".join(self.lines)
            + f"\n    return {', '.join(x.name for x in results)} : {types}\n  }}\n"
        )


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.divide(a, b)
