"""Random programs around attention: layouts, reshapes, scales, masks, spellings, and twists.

``make_case`` composes one. Tensors carry labels (b batch, n kv head, g head in its group, l query,
s key, d and e head dims); ``twist`` swaps the meaning of two dims of equal size without moving an
element, which makes look-alikes: whatever comes out, the net knows its true values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fuzzing.net import Net, Val

Labels = tuple[str, ...]  # one string of labels for each dim; "" for a unit dim


@dataclass
class Case:
    net: Net
    result: Val
    results: list[Val]
    plain: bool  # nothing was twisted and every feature is one that must be recognised
    notes: list[str] = field(default_factory=list)


class Maker:
    def __init__(self, seed: int, dynamic: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.net = Net(f"case{seed}", self.rng)
        small = bool(self.chance(0.3))
        one = int(self.rng.integers(2, 5))
        self.size = {c: one if small else int(self.rng.integers(1, 6)) for c in "bngdlse"}
        if self.chance(0.5):
            self.size["g"] = 1
        if dynamic:
            self._hide_sizes()
        self.twists = 0
        self.may_twist = bool(self.chance(0.4))
        self.notes: list[str] = []

    def _hide_sizes(self) -> None:
        """Some sizes are known at run time only: multiples of a prime that no other size has."""
        self.size = {c: min(n, 4) for c, n in self.size.items()}
        primes = [5, 7, 11]
        self.rng.shuffle(primes)
        letters = [c for c in "bls" if self.chance(0.6)]
        if self.chance(0.1):
            letters.append(self.pick(list("ngde")))
        for c in letters[:3]:
            # two sizes that happen to be equal, now and then
            self.size[c] = primes[0] if self.chance(0.3) else primes.pop()
        self.net.unknown = tuple(sorted({self.size[c] for c in letters[:3]}))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, items: list):
        return items[int(self.rng.integers(len(items)))]

    def extent(self, labels: str) -> int:
        return int(np.prod([self.size[c] for c in labels], dtype=np.int64))

    def shape(self, labels: Labels) -> tuple[int, ...]:
        return tuple(self.extent(x) for x in labels)

    # -- layouts ---------------------------------------------------------------------------------
    def twist(self, labels: Labels) -> Labels:
        """Now and then: call two dims of equal size by each other's name."""
        if not self.may_twist or not self.chance(0.25):
            return labels
        pairs = [
            (i, j) for i in range(len(labels)) for j in range(i)
            if labels[i] != labels[j] and self.extent(labels[i]) == self.extent(labels[j]) > 1
        ]  # fmt: skip
        if not pairs:
            return labels
        i, j = self.pick(pairs)
        result = list(labels)
        result[i], result[j] = result[j], result[i]
        self.twists += 1
        self.notes.append(f"twist {labels[i]}/{labels[j]}")
        return tuple(result)

    def source(self, letters: str, last: str) -> tuple[Val, Labels]:
        """An input tensor with these labels in a random order, some dims merged, maybe packed."""
        order = list(letters)
        self.rng.shuffle(order)
        if self.chance(0.7):
            order.remove(last)
            order.append(last)
        labels: list[str] = []
        for c in order:
            if labels and self.chance(0.25):
                labels[-1] += c
            else:
                labels.append(c)
        shape = list(self.shape(tuple(labels)))
        if self.chance(0.15):
            dim = int(self.rng.integers(len(shape)))
            before, after = int(self.rng.integers(3)), int(self.rng.integers(3))
            shape[dim] += before + after
            whole = self.net.input(tuple(shape))
            x = self.net.slice(whole, dim, before, shape[dim] - before - after)
        else:
            x = self.net.input(tuple(shape))
        return x, self.twist(tuple(labels))

    def split(self, x: Val, labels: Labels) -> tuple[Val, Labels]:
        """Every label its own dim."""
        if all(len(group) == 1 for group in labels):
            return x, labels
        flat = tuple(c for group in labels for c in group)
        groups, position = [], 0
        for group in labels:
            n = max(len(group), 1)
            groups.append(list(range(position, position + n)))
            position += n
        return self.net.reshape(x, groups, self.shape(flat)), flat

    def permute(self, x: Val, labels: Labels, target: Labels) -> Val:
        permutation = [labels.index(c) for c in target]
        if permutation == list(range(len(permutation))):
            return x
        return self.net.transpose(x, permutation, generic=self.chance(0.4))

    def merge(self, x: Val, labels: Labels, target: Labels) -> Val:
        if labels == target:
            return x
        groups, position = [], 0
        for group in target:
            groups.append(list(range(position, position + len(group))))
            position += len(group)
        return self.net.reshape(x, groups, self.shape(target))

    def layout(self, x: Val, labels: Labels, target: Labels) -> Val:
        """The tensor in another layout, by reshapes and transposes, with detours."""
        x, labels = self.split(x, labels)
        flat = tuple(c for group in target for c in group)
        if self.chance(0.15):
            detour = list(flat)
            self.rng.shuffle(detour)
            x = self.permute(x, labels, tuple(detour))
            labels = self.twist(tuple(detour))
        if self.chance(0.1) and len(labels) > 1:
            whole = ("".join(labels),)
            x = self.merge(x, labels, whole)
            x, labels = self.split(x, whole)
        x = self.permute(x, labels, flat)
        return self.merge(x, self.twist(flat), target)

    # -- pieces ----------------------------------------------------------------------------------
    def operand(self, letters: str, last: str, scales: bool) -> tuple[Val, Labels]:
        x, labels = self.source(letters, last)
        if scales and self.chance(0.25):
            x = self.net.with_scalar(x, self.pick(["mulf", "divf"]), self.pick([0.5, 2.0, 0.7]))
        return x, labels

    def repeated(self, x: Val, labels: Labels) -> tuple[Val, Labels]:
        """K or V repeated for each head of a group, as a broadcast."""
        x, labels = self.split(x, labels)
        at = labels.index("n") + 1
        if self.chance(0.1):
            at -= 1
            self.notes.append("tiled heads")
        target = (*labels[:at], "g", *labels[at:])
        dims = [i if i < at else i + 1 for i in range(len(labels))]
        y = self.net.elementwise([(x, dims)], self.shape(target), [], "%b0", lambda a: a)
        return y, target

    def product(
        self, a: Val, a_labels: Labels, b: Val, b_labels: Labels, out: str, summed: str
    ) -> tuple[Val, Labels]:
        """A contraction of two tensors to the labels of ``out``, in one of its spellings."""
        shared = [c for c in out if _has(a_labels, c) and _has(b_labels, c)]
        left = [c for c in out if _has(a_labels, c) and c not in shared]
        right = [c for c in out if _has(b_labels, c) and c not in shared]
        if self.chance(0.65) and left and right and shared:
            for group in (shared, left, right):
                if self.chance(0.2):
                    self.rng.shuffle(group)
            bs, ls, rs = "".join(shared), "".join(left), "".join(right)
            x = self.layout(a, a_labels, (bs, ls, summed))
            y = self.layout(b, b_labels, (bs, summed, rs))
            if self.chance(0.25):  # the transposed product
                x = self.layout(x, (bs, ls, summed), (bs, summed, ls))
                y = self.layout(y, (bs, summed, rs), (bs, rs, summed))
                return self.net.batch_matmul(y, x), (bs, rs, ls)
            return self.net.batch_matmul(x, y), (bs, ls, rs)
        a, a_labels = self.split(a, a_labels)
        b, b_labels = self.split(b, b_labels)
        letters = sorted({*a_labels, *b_labels})
        order = list(out)
        if self.chance(0.4):
            self.rng.shuffle(order)
        number = {c: i for i, c in enumerate(letters)}
        result = self.net.contract(
            a, [number[c] for c in a_labels], b, [number[c] for c in b_labels],
            [number[c] for c in order], {number[c]: self.size[c] for c in letters},
        )  # fmt: skip
        return result, tuple(order)

    def score_ops(self, s: Val, labels: Labels) -> Val:
        net = self.net
        if self.chance(0.5):
            s = net.with_scalar(s, self.pick(["mulf", "divf"]), self.pick([0.25, 1.7, -0.5, 3.0]))
        if self.chance(0.12):
            cap = self.pick([2.0, 5.0])
            s = net.with_scalar(s, "divf", cap)
            s = net.unary(s, "math.tanh", np.tanh)
            s = net.with_scalar(s, "mulf", cap)
        for _ in range(int(self.rng.integers(0, 3))):
            kind = self.pick(["bias", "mask", "band", "additive", "scale"])
            if kind == "scale" and self.chance(0.3):
                s = net.with_scalar(s, "mulf", self.pick([0.5, 2.0]))
            elif kind == "bias":
                m, dims = self.broadcast(labels, "f32")
                s = net.binary(s, m, dims, "addf", flip=self.chance(0.3))
            elif kind == "mask":
                m, dims = self.broadcast(labels, "i1")
                fill = self.pick([-np.inf, -1e9, -1e4, -3.4028234663852886e38])
                s = net.select(m, dims, s, fill, self.chance(0.6))
            elif kind in ("band", "additive"):
                s = self.band(s, labels, kind == "additive")
        return s

    def broadcast(self, labels: Labels, dtype: str) -> tuple[Val, list[int | None]]:
        """A tensor over some of the dims, as an input, with unit dims for the rest or without."""
        kept = [i for i in range(len(labels)) if self.chance(0.6)]
        if self.chance(0.5):
            dims: list[int | None] = [i if i in kept else None for i in range(len(labels))]
        else:
            dims = list(kept)
        shape = tuple(1 if d is None else self.extent(labels[d]) for d in dims)
        return self.net.input(shape, dtype), dims

    def band(self, s: Val, labels: Labels, additive: bool) -> Val:
        rows = next((i for i, x in enumerate(labels) if x == "l"), None)
        keys = next((i for i, x in enumerate(labels) if x == "s"), None)
        if rows is None or keys is None:
            return s
        offset = int(self.rng.integers(-1, 4))
        predicate = self.pick(["sge", "sge", "slt"])
        m = self.net.band((self.size["l"], self.size["s"]), offset, predicate)
        if not additive:
            return self.net.select(m, [rows, keys], s, self.pick([-np.inf, -1e9]), True)
        zero = self.net.fill(m.shape, 0.0)
        bias = self.net.select(m, [0, 1], zero, self.pick([-np.inf, -1e9, -3.4e38]), True)
        return self.net.binary(s, bias, [rows, keys], "addf")

    # -- softmax ---------------------------------------------------------------------------------
    def softmax(self, s: Val, dim: int) -> tuple[Val, Val | None]:
        """(P, None), or (exponentials, row sums with a kept dim) where the division comes later."""
        net = self.net
        kind = self.pick(["div", "div", "div", "recip", "named", "log", "late", "nomax"])
        if kind == "named":
            return net.softmax(s, dim), None
        if kind != "nomax":
            start = self.pick([-np.inf, -np.inf, -3.4028234663852886e38])
            op = "maximumf"
            top = self.rows(s, dim, op, start, index=self.chance(0.4))
            s = net.binary(s, top[0], top[1], "subf")
        e = net.unary(s, "math.exp", np.exp)
        total, dims = self.rows(e, dim, "addf", 0.0, index=False, straight=kind == "late")
        if kind == "late":
            return e, total
        if kind == "log":
            log = net.unary(total, "math.log", _log)
            return net.unary(net.binary(s, log, dims, "subf"), "math.exp", np.exp), None
        if kind == "recip":
            one = net.scalar(1.0)
            shape = total.shape
            body = [f"%r = arith.divf {one}, %b0 : f32"]
            inverse = net.elementwise(
                [(total, list(range(len(shape))))], shape, body, "%r", lambda a: _inverse(a)
            )
            return net.binary(e, inverse, dims, "mulf", flip=self.chance(0.5)), None
        return net.binary(e, total, dims, "divf"), None

    def rows(
        self, x: Val, dim: int, op: str, start: float, index: bool, straight: bool = False
    ) -> tuple[Val, list[int | None]]:
        """A reduction over one dim and the dims to read it with."""
        if not straight and self.may_twist and self.chance(0.08) and len(x.shape) > 1:
            dim = self.pick([d for d in range(len(x.shape)) if d != dim])
            self.twists += 1
            self.notes.append(f"{op} over another dim")
        keep = self.chance(0.5)
        r = self.net.reduce(x, dim, op, keep, start, index and op == "maximumf")
        others: list[int | None] = [d for d in range(len(x.shape)) if d != dim]
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
                self.twists += 1
                self.notes.append("row value read at another row")
        return r, others

    # -- the whole -------------------------------------------------------------------------------
    def make(self) -> Case:
        net = self.net
        grouped = self.size["g"] > 1
        repeat = grouped and self.chance(0.5)
        q, q_labels = self.operand("bngld", "d", scales=True)
        k, k_labels = self.operand("bnsd", "d", scales=True)
        v, v_labels = self.operand("bnse", "e", scales=False)
        if repeat or (not grouped and self.chance(0.5)):
            k, k_labels = self.repeated(k, k_labels)
            v, v_labels = self.repeated(v, v_labels)
        s, labels = self.product(q, q_labels, k, k_labels, "bngls", "d")
        target = self.score_layout(labels)
        s = self.layout(s, labels, target)
        labels = target
        s = self.score_ops(s, labels)
        dim = labels.index("s")
        p, total = self.softmax(s, dim)
        results: list[Val] = []
        if total is None and self.chance(0.1):
            results.append(p)
        if total is None and self.may_twist and self.chance(0.1):
            p = net.binary(p, p, list(range(len(p.shape))), "mulf")
            self.twists += 1
            self.notes.append("P squared")
        labels = self.twist(labels)
        o, o_labels = self.product(p, labels, v, v_labels, "bngle", "s")
        if total is not None:
            o = self.divide(o, o_labels, total, target, dim)
        final = self.result_layout()
        o = self.layout(o, o_labels, final)
        return Case(net, o, [o, *results], self.twists == 0, self.notes)

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


def _has(labels: Labels, c: str) -> bool:
    return any(c in group for group in labels)


def _log(a: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.log(a)


def _inverse(a: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return 1.0 / a


def make_case(seed: int, dynamic: bool = False) -> Case:
    """One program; ``dynamic``: some of its sizes are known at run time only."""
    with np.errstate(all="ignore"):
        return Maker(seed, dynamic).make()
