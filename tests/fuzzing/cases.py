"""Random programs around attention: layouts, reshapes, scales, masks, spellings, and twists.

``make_case`` composes one: operands, scores, softmax, values, result, and now and then a second
attention that reads what the first one read or made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fuzzing.layouts import Labels
from fuzzing.net import Net, Val
from fuzzing.scores import Scores
from fuzzing.softmaxes import Softmaxes

Labelled = tuple[Val, Labels]


@dataclass
class Case:
    net: Net
    result: Val
    results: list[Val]
    plain: bool  # nothing was twisted and every feature is one that must be recognised
    notes: list[str] = field(default_factory=list)
    features: set[str] = field(default_factory=set)
    sites: int = 1  # attentions in a plain program
    element: str = "f32"


class Maker(Scores, Softmaxes):
    def make(self) -> Case:
        self.features.add(self.element)
        if self.net.unknown:
            self.features.add("run-time sizes")
        chained = self.chance(0.06)
        if chained:  # the result is the next query
            self.size["e"] = self.size["d"]
        q, k, v = self.operands()
        results: list[Val] = []
        o, labels = self.attention(q, k, v, results)
        sites = 1
        # (NaN as a query is nobody's attention: guards would have to keep it)
        chained = chained and bool(np.isfinite(o.array).all())
        if chained or self.chance(0.04):
            sites = 2
            if not chained or self.chance(0.3):
                results.append(o)
            if chained:
                self.features.add("chained attention")
                second = self.renamed(o, labels)
            else:
                self.features.add("shared keys and values")
                second = self.operand("bngld", "d", scales=True)
            o, labels = self.attention(self.wider(*second), k, v, results)
        final = self.result_layout()
        o = self.layout(o, labels, final)
        if self.element != "f32" and self.chance(0.8):
            o = self.net.cast(o, self.element)
        whole = o
        if self.chance(0.08):
            o = self.part_of(o, final)
            if self.chance(0.3):
                results.append(whole)
        # (heads are a constant of the kernels' dispatch)
        plain = self.twists == 0 and not any(self.unknown_size(self.size[c]) for c in "ngde")
        return Case(self.net, o, [o, *results], plain, self.notes, self.features, sites,
                    self.element)  # fmt: skip

    # -- operands --------------------------------------------------------------------------------
    def operands(self) -> tuple[Labelled, Labelled, Labelled]:
        if self.size["g"] == 1 and self.chance(0.12):
            return self.packed()
        if self.size["g"] > 1:
            self.features.add("grouped heads")
        repeat = self.chance(0.5)
        q = self.operand("bngld", "d", scales=True)
        k = self.operand("bnsd", "d", scales=True)
        v = self.operand("bnse", "e", scales=False)
        if repeat:
            k, v = self.repeated(*k), self.repeated(*v)
        return self.wider(*q), self.wider(*k), self.wider(*v)

    def operand(self, letters: str, last: str, scales: bool) -> Labelled:
        x, labels = self.source(letters, last)
        if scales and self.chance(0.25):
            x = self.net.with_scalar(x, self.pick(["mulf", "divf"]), self.pick([0.5, 2.0, 0.7]))
        return x, labels

    def packed(self) -> tuple[Labelled, Labelled, Labelled]:
        """Q, K and V as slices of one input."""
        self.features.add("packed QKV")
        net = self.net
        self.size["s"], self.size["e"] = self.size["l"], self.size["d"]
        b, n, rows, d = (self.size[c] for c in "bnld")
        kind = self.pick(["rows of 3*n*d", "a dim of 3", "3*d for each head"])
        shape = {
            "rows of 3*n*d": (b, rows, 3 * n * d), "a dim of 3": (b, rows, 3, n, d),
            "3*d for each head": (b, rows, n, 3 * d),
        }[kind]  # fmt: skip
        whole, found = net.input(shape, self.element), []
        for i, (query, column) in enumerate(["ld", "sd", "se"]):
            if kind == "rows of 3*n*d":
                found.append((net.slice(whole, 2, i * n * d, n * d), ("b", query, "n" + column)))
            elif kind == "a dim of 3":
                x = net.slice(whole, 2, i, 1)
                x = net.reshape(x, [[0], [1], [2, 3], [4]], (b, rows, n, d))
                found.append((x, ("b", query, "n", column)))
            else:
                found.append((net.slice(whole, 3, i * d, d), ("b", query, "n", column)))
        q, k, v = (self.wider(*x) for x in found)
        return (q[0], tuple("ng" if c == "n" else c.replace("nd", "ngd") for c in q[1])), k, v

    def repeated(self, x: Val, labels: Labels) -> Labelled:
        """K or V repeated for each head of a group, as a broadcast."""
        self.features.add("repeated heads")
        x, labels = self.split(x, labels)
        at = labels.index("n") + 1
        if self.chance(0.1):
            at -= 1
            self.notes.append("tiled heads")
        target = (*labels[:at], "g", *labels[at:])
        dims: list[int | None] = [i if i < at else i + 1 for i in range(len(labels))]
        y = self.net.elementwise([(x, dims)], self.shape(target), [], "%b0", lambda a: a, x.dtype)
        return y, target

    def wider(self, x: Val, labels: Labels) -> Labelled:
        return (self.net.cast(x, "f32") if self.wide else x), labels

    def renamed(self, o: Val, labels: Labels) -> Labelled:
        """The result as the next query."""
        labels = tuple(group.replace("e", "d") for group in labels)
        return (o if self.wide else self.net.cast(o, self.element)), labels

    # -- one attention ---------------------------------------------------------------------------
    def attention(self, q: Labelled, k: Labelled, v: Labelled, results: list[Val]) -> Labelled:
        net = self.net
        s, labels = self.product(*q, *k, "bngls", "d")
        narrow = not self.wide and self.chance(0.6)
        if narrow:
            s = net.cast(s, self.element)
        target = self.score_layout(labels)
        s = self.layout(s, labels, target)
        s = self.score_ops(s, target)
        if self.may_twist and self.chance(0.08):
            s = self.spoilt_scores(s, target)
        if narrow and self.chance(0.7):
            s = net.cast(s, "f32")
        if self.chance(0.04):
            self.features.add("scores as a result")
            results.append(s)
        p, total = self.softmax(s, target)
        p = net.cast(p, v[0].dtype)
        if total is None and self.chance(0.1):
            self.features.add("weights as a result")
            results.append(p)
        if total is None and self.may_twist and self.chance(0.2):
            p = self.spoilt_weights(p, target)
        o, o_labels = self.product(p, self.twist(target), *v, "bngle", "s")
        if total is not None:
            o = self.divide(o, o_labels, net.cast(total, o.dtype), target, target.index("s"))
        return o, o_labels

    def divide(self, o: Val, o_labels: Labels, total: Val, s_labels: Labels, dim: int) -> Val:
        labels = tuple(x for i, x in enumerate(s_labels) if i != dim)
        if len(total.shape) == len(s_labels):
            keep = [[i] for i in range(len(s_labels))]
            position = keep.pop(dim)
            if keep and dim < len(keep):
                keep[dim] = position + keep[dim]
            elif keep:
                keep[-1] = keep[-1] + position
            total = self.net.reshape(total, keep, self.shape(labels))
        total, flat = self.split(total, labels)
        spread = tuple(c for group in o_labels for c in group)
        x, _ = self.split(o, o_labels)
        dims: list[int | None] = [spread.index(c) for c in flat]
        x = self.net.binary(x, total, dims, "divf")
        return self.merge(x, spread, o_labels)

    # -- look-alikes -----------------------------------------------------------------------------
    def spoilt_scores(self, s: Val, labels: Labels) -> Val:
        net, dims = self.net, list(range(len(s.shape)))
        kind = self.pick(["scores times a tensor", "mask of the scores", "square of the scores"])
        self.twisted(kind)
        if kind == "scores times a tensor":
            return net.binary(s, net.input(s.shape, s.dtype), dims, "mulf")
        if kind == "square of the scores":
            return net.binary(s, s, dims, "mulf")
        low = net.compare(s, "olt", -0.5, lambda a: a < float(np.float32(-0.5)))
        return net.select(low, dims, s, -1e9, False)

    def spoilt_weights(self, p: Val, labels: Labels) -> Val:
        net, dims = self.net, list(range(len(p.shape)))
        kind = self.pick(
            ["P squared", "P masked", "P times a tensor", "P plus a tensor", "heads mixed"]
        )
        self.twisted(kind)
        if kind == "P squared":
            return net.binary(p, p, dims, "mulf")
        if kind == "P masked":
            return net.select(net.input(p.shape, "i1"), dims, p, 0.0, True)
        if kind == "heads mixed":
            n = p.shape[0]
            weights = net.input((n, n), p.dtype)
            sizes = dict(enumerate((*p.shape, n)))
            out = [len(dims), *dims[1:]]
            mixed = net.contract(p, dims, weights, [0, len(dims)], out, sizes)
            return net.cast(mixed, p.dtype)
        other = net.input(p.shape, p.dtype)
        return net.binary(p, other, dims, "mulf" if kind == "P times a tensor" else "addf")

    # -- results ---------------------------------------------------------------------------------
    def part_of(self, o: Val, labels: Labels) -> Val:
        """Some rows or columns of the result: the last token, or a head."""
        dims = [i for i, n in enumerate(o.shape) if n > 1 and not self.unknown_size(n)]
        if not dims:
            return o
        self.features.add("part of the result")
        dim = self.pick(dims)
        size = int(self.rng.integers(1, o.shape[dim]))
        start = self.pick([0, o.shape[dim] - size])
        return self.net.slice(o, dim, start, size)

    def unknown_size(self, n: int) -> bool:
        return any(n % p == 0 for p in self.net.unknown)

    def score_layout(self, labels: Labels) -> Labels:
        options: list[Labels] = [
            ("bng", "l", "s"), ("b", "ng", "l", "s"), ("b", "n", "g", "l", "s"), ("bn", "gl", "s"),
            ("b", "ng", "s", "l"), ("s", "bng", "l"), ("b", "n", "gl", "s"),
        ]  # fmt: skip
        return self.pick(options)

    def result_layout(self) -> Labels:
        return self.pick(
            [("bng", "l", "e"), ("b", "l", "nge"), ("b", "ng", "l", "e"), ("b", "l", "ng", "e"),
             ("l", "b", "nge"), ("bl", "nge"), ("b", "nge", "l"), ("b", "n", "g", "l", "e")]
        )  # fmt: skip


def make_case(seed: int, dynamic: bool = False) -> Case:
    """One program; ``dynamic``: some of its sizes are known at run time only."""
    with np.errstate(all="ignore"):
        return Maker(seed, dynamic).make()
