"""The softmax of random programs in its spellings, with sinks and guards, and what is none."""

from __future__ import annotations

import math

import numpy as np

from fuzzing.layouts import Labels, Layouts
from fuzzing.net import Val
from fuzzing.writer import rounded

Dims = list[int | None]
_KINDS = ["div", "div", "div", "recip", "named", "log", "late", "nomax", "exp2"]


class Softmaxes(Layouts):
    """The part of a maker that turns scores into probabilities."""

    def softmax(self, s: Val, labels: Labels) -> tuple[Val, Val | None]:
        """(P, None), or (exponentials, row sums with a kept dim) where the division comes later."""
        net, dim = self.net, labels.index("s")
        kind = self.pick(_KINDS)
        if kind == "nomax" and s.array.max() > 80:  # exponentials overflow
            kind = "div"
        if kind not in ("div", "named"):
            self.features.add(f"softmax: {kind}")
        if kind == "nomax":  # exponentials of f16 overflow
            s = net.cast(s, "f32")
        sink = None
        if self.chance(0.08) and kind in ("div", "recip", "nomax"):
            sink = self.sink(labels, s.dtype)
        if sink is not None and not net.unknown and self.chance(0.5):
            return self.with_column(s, dim, *sink), None
        if kind == "named":
            return self.guarded(net.softmax(s, dim), s, dim), None
        if kind == "exp2":
            s = net.with_scalar(s, "mulf", math.log2(math.e))
        scores = s
        top: tuple[Val, Dims] | None = None
        if kind != "nomax":
            start = self.pick([-np.inf, -np.inf, -3.4028234663852886e38])
            top = self.rows(s, dim, "maximumf", start, index=self.chance(0.4))
            s = net.binary(s, top[0], top[1], "subf")
        e = net.unary(s, *(("math.exp2", np.exp2) if kind == "exp2" else ("math.exp", np.exp)))
        total, dims = self.rows(e, dim, "addf", 0.0, index=False, straight=kind == "late")
        # (a twist's maximum over other rows varies with the keys: it has no place beside the sum;
        # nor has a sink beside a sum over the heads)
        beside = top is None or all(d is None or d in dims for d in top[1])
        if sink is not None and beside and sink[1][0] in dims:
            total = self.plus_sink(total, dims, top, *sink)
        elif self.may_twist and self.chance(0.04):
            total = net.binary(total, net.input(total.shape, total.dtype),
                               list(range(len(total.shape))), "addf")  # fmt: skip
            self.twisted("something is added to the sum")
        elif top is not None and self.seldom(0.06):
            total = self.with_floor(total)
        if kind == "late":
            return e, total
        if kind == "log":
            log = net.unary(total, "math.log", _log)
            return net.unary(net.binary(s, log, dims, "subf"), "math.exp", np.exp), None
        if kind == "recip":
            one, kind_of = net.scalar(1.0, total.dtype), total.dtype
            body = [f"%r = arith.divf {one}, %b0 : {kind_of}"]
            whole: Dims = list(range(len(total.shape)))
            inverse = net.elementwise([(total, whole)], total.shape, body, "%r", _inverse, kind_of)
            return net.binary(e, inverse, dims, "mulf", flip=self.chance(0.5)), None
        return self.guarded(net.binary(e, total, dims, "divf"), scores, dim), None

    def rows(
        self, x: Val, dim: int, op: str, start: float, index: bool, straight: bool = False
    ) -> tuple[Val, Dims]:
        """A reduction over one dim and the dims to read it with."""
        if not straight and self.may_twist and self.chance(0.08) and len(x.shape) > 1:
            dim = self.pick([d for d in range(len(x.shape)) if d != dim])
            self.twisted(f"{op} over another dim")
        keep = self.chance(0.5)
        r = self.net.reduce(x, dim, op, keep, start, index and op == "maximumf")
        others: Dims = [d for d in range(len(x.shape)) if d != dim]
        if keep:
            others.insert(dim, None)
        if self.may_twist and self.chance(0.08):
            sizes = [None if d is None else x.shape[d] for d in others]
            swaps = [
                (i, j) for i in range(len(others)) for j in range(i)
                if sizes[i] is not None and sizes[i] == sizes[j] and sizes[i] > 1
            ]  # fmt: skip
            if swaps:
                i, j = self.pick(swaps)
                others[i], others[j] = others[j], others[i]
                self.twisted("row value read at another row")
        return r, others

    # -- sinks -----------------------------------------------------------------------------------
    def sink(self, labels: Labels, dtype: str) -> tuple[Val, Dims] | None:
        """One more score for each head, and the dims of the scores to read it with."""
        heads = next((i for i, x in enumerate(labels) if x in ("n", "ng")), None)
        if heads is None:
            return None
        self.features.add("sink")
        return self.net.input((self.extent(labels[heads]),), dtype), [heads]

    def with_column(self, s: Val, dim: int, sink: Val, dims: Dims) -> Val:
        """The sinks concatenated behind the scores, and sliced off the probabilities."""
        net, keys = self.net, s.shape[dim]
        shape = (*s.shape[:dim], 1, *s.shape[dim + 1 :])
        column = net.elementwise([(sink, dims)], shape, [], "%b0", lambda a: a, s.dtype)
        return net.slice(net.softmax(net.concat([s, column], dim), dim), dim, 0, keys)

    def plus_sink(
        self, total: Val, dims: Dims, top: tuple[Val, Dims] | None, sink: Val, place: Dims
    ) -> Val:
        """exp(sink - maximum) added to the sum."""
        net = self.net
        whole: Dims = list(range(len(total.shape)))
        at = [dims.index(place[0])]
        kind = total.dtype
        if top is None:
            body = [f"%e = math.exp %b1 : {kind}", f"%r = arith.addf %b0, %e : {kind}"]
            operands = [(total, whole), (sink, at)]
            return net.elementwise(
                operands, total.shape, body, "%r", lambda t, z: t + np.exp(z), kind
            )
        body = [
            f"%d = arith.subf %b1, %b2 : {kind}", f"%e = math.exp %d : {kind}",
            f"%r = arith.addf %b0, %e : {kind}",
        ]  # fmt: skip
        maximum: Dims = [None if d is None else dims.index(d) for d in top[1]]
        operands = [(total, whole), (sink, at), (top[0], maximum)]
        return net.elementwise(
            operands, total.shape, body, "%r", lambda t, z, m: t + np.exp(z - m), kind
        )

    def with_floor(self, total: Val) -> Val:
        """Against a division by zero; with the row maximum subtracted, the sum is 1 or more."""
        self.features.add("floor under the sum")
        net, kind, tiny = self.net, total.dtype, 1e-9
        whole: Dims = list(range(len(total.shape)))
        form = int(self.later.integers(3)) if kind != "f16" else 2  # (in f16 1e-9 is 0)
        if form == 2:
            one, zero = net.scalar(1.0, kind), net.scalar(0.0, kind)
            body = [f"%n = arith.cmpf oeq, %b0, {zero} : {kind}",
                    f"%r = arith.select %n, {one}, %b0 : {kind}"]  # fmt: skip
            return net.elementwise(
                [(total, whole)], total.shape, body, "%r", lambda a: np.where(a == 0, 1.0, a), kind
            )
        number = net.scalar(tiny, kind)
        tiny = float(rounded(tiny, kind))
        op, compute = [
            ("maximumf", lambda a: np.maximum(a, tiny)), ("addf", lambda a: a + tiny),
        ][form]  # fmt: skip
        body = [f"%r = arith.{op} %b0, {number} : {kind}"]
        return net.elementwise([(total, whole)], total.shape, body, "%r", compute, kind)

    # -- guards ----------------------------------------------------------------------------------
    def guarded(self, p: Val, s: Val, dim: int) -> Val:
        """Rows without a finite score made zero, as safe softmaxes do."""
        if not self.chance(0.15):
            return p
        net, dims = self.net, list(range(len(p.shape)))
        if self.chance(0.5):
            self.features.add("NaN guard")
            zero = net.scalar(0.0, p.dtype)
            body = [f"%n = arith.cmpf une, %b0, %b0 : {p.dtype}",
                    f"%r = arith.select %n, {zero}, %b0 : {p.dtype}"]  # fmt: skip
            return net.elementwise(
                [(p, dims)], p.shape, body, "%r", lambda a: np.where(np.isnan(a), 0.0, a), p.dtype
            )
        self.features.add("guard for masked rows")
        finite = net.compare(s, "une", -math.inf, lambda a: a != -np.inf)
        alive = net.reduce(finite, dim, "ori", False, False, index=False)
        others: Dims = [d for d in dims if d != dim]
        return net.select(alive, others, p, 0.0, True)

    def twisted(self, note: str) -> None:
        self.twists += 1
        self.notes.append(note)


def _log(a: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.log(a)


def _inverse(a: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return 1.0 / a
