"""What random programs do to scores before the softmax: scales, masks, biases, softcap."""

from __future__ import annotations

import numpy as np

from fuzzing.layouts import Labels, Layouts
from fuzzing.net import Val

LOWEST = -3.4028234663852886e38
Dims = list[int | None]


class Scores(Layouts):
    """The part of a maker that works on scores; labels say what their dims are."""

    def score_ops(self, s: Val, labels: Labels) -> Val:
        net = self.net
        if self.chance(0.5):
            s = net.with_scalar(s, self.pick(["mulf", "divf"]), self.pick([0.25, 1.7, -0.5, 3.0]))
        if self.chance(0.12):
            self.features.add("softcap")
            cap = self.pick([2.0, 5.0])
            s = net.with_scalar(s, "divf", cap)
            s = net.unary(s, "math.tanh", np.tanh)
            s = net.with_scalar(s, "mulf", cap)
        kinds = ["bias", "mask", "band", "additive", "scale", "constant", "padded", "alibi"]
        for _ in range(int(self.rng.integers(0, 3))):
            kind = self.pick(kinds)
            if kind == "scale":
                if self.chance(0.3):
                    s = net.with_scalar(s, "mulf", self.pick([0.5, 2.0]))
            elif kind == "bias":
                self.features.add("bias")
                m, dims = self.broadcast(labels, s.dtype)
                s = net.binary(s, m, dims, "addf", flip=self.chance(0.3))
            elif kind == "mask":
                self.features.add("boolean mask")
                m, dims = self.broadcast(labels, "i1")
                fill, keeps = self.fill_value(), self.chance(0.6)
                if self.seldom(0.15):  # so that nothing infinite gets into a gradient
                    self.features.add("masked twice")
                    s = net.select(m, dims, s, 0.0, keeps)
                s = net.select(m, dims, s, fill, keeps)
            else:
                s = self.positional(s, labels, kind)
        return s

    def fill_value(self) -> float:
        return self.pick([-np.inf, -np.inf, -1e9, -1e4, LOWEST])

    def broadcast(self, labels: Labels, dtype: str) -> tuple[Val, Dims]:
        """A tensor over some of the dims, as an input, with unit dims for the rest or without."""
        kept = [i for i in range(len(labels)) if self.chance(0.6)]
        if self.chance(0.5):
            dims: Dims = [i if i in kept else None for i in range(len(labels))]
        else:
            dims = list(kept)
        shape = tuple(1 if d is None else self.extent(labels[d]) for d in dims)
        return self.net.input(shape, dtype), dims

    # -- what depends on positions ---------------------------------------------------------------
    def positional(self, s: Val, labels: Labels, kind: str) -> Val:
        rows = next((i for i, x in enumerate(labels) if x == "l"), None)
        keys = next((i for i, x in enumerate(labels) if x == "s"), None)
        if rows is None or keys is None:
            return s
        if kind == "alibi":
            return self.alibi(s, labels, rows, keys)
        if kind == "constant" and not self.net.unknown:
            return self.constant_mask(s, rows, keys)
        if kind == "padded":
            return self.padded(s, labels, rows, keys)
        self.features.add("band")
        m = self.one_band()
        if kind != "additive":
            return self.net.select(m, [rows, keys], s, self.fill_value(), True)
        zero = self.net.fill(m.shape, 0.0, s.dtype)
        bias = self.net.select(m, [0, 1], zero, self.pick([-np.inf, -1e9, -3.4e38]), True)
        return self.net.binary(s, bias, [rows, keys], "addf")

    def one_band(self) -> Val:
        offset = int(self.rng.integers(-1, 4))
        predicate = self.pick(["sge", "sge", "slt"])
        return self.net.band((self.size["l"], self.size["s"]), offset, predicate)

    def padded(self, s: Val, labels: Labels, rows: int, keys: int) -> Val:
        """A band, maybe a window, and a padding mask for each batch: one condition."""
        net, square = self.net, (self.size["l"], self.size["s"])
        m = net.band(square, int(self.rng.integers(0, 4)), "sge")
        if self.chance(0.4):
            self.features.add("window")
            window = net.band(square, -int(self.rng.integers(1, 4)), "slt")
            m = net.both(m, [0, 1], window, [0, 1], square)
        self.features.add("band and padding")
        batch = next((i for i, x in enumerate(labels) if x == "b"), None)
        b, keep = self.size["b"], self.chance(0.7)
        if batch is None or self.chance(0.2):
            padding = net.input((square[1],), "i1")
            m = net.both(m, [0, 1], padding, [1], square)
            return net.select(m, [rows, keys], s, self.fill_value(), keep)
        padding = net.input((b, 1, square[1]) if self.chance(0.5) else (b, square[1]), "i1")
        dims: Dims = [0, 2] if len(padding.shape) == 2 else [0, None, 2]
        m = net.both(m, [1, 2], padding, dims, (b, *square))
        return net.select(m, [batch, rows, keys], s, self.fill_value(), keep)

    def constant_mask(self, s: Val, rows: int, keys: int) -> Val:
        """A lower triangle that is written into the program, as booleans or numbers."""
        self.features.add("constant mask")
        net, square = self.net, (self.size["l"], self.size["s"])
        keep = np.tri(*square, int(self.rng.integers(-1, 3)), dtype=bool)
        if self.chance(0.3):
            keep &= np.tri(*square, -int(self.rng.integers(1, 3)), dtype=bool) == 0
        kind = self.pick(["boolean", "zero or fill", "one or zero"])
        if kind == "boolean":
            return net.select(net.constant(keep, "i1"), [rows, keys], s, self.fill_value(), True)
        if kind == "zero or fill":
            bias = np.where(keep, 0.0, self.pick([-np.inf, -1e4]))
            return net.binary(s, net.constant(bias, s.dtype), [rows, keys], "addf")
        ones = net.constant(keep.astype(np.float64), "f32")
        masked = net.compare(ones, "oeq", 0.0, lambda a: a == 0)
        return net.select(masked, [rows, keys], s, self.fill_value(), False)

    def alibi(self, s: Val, labels: Labels, rows: int, keys: int) -> Val:
        """slope[head] * (key - row), or the distance alone."""
        heads = next((i for i, x in enumerate(labels) if x in ("n", "ng")), None)
        if s.dtype != "f32":
            return s
        self.features.add("ALiBi")
        net = self.net
        shape = (self.extent(labels[heads]) if heads is not None else 1, *self.square())
        slopes = net.input((shape[0],))
        body = [
            "%i = linalg.index 1 : index", "%j = linalg.index 2 : index",
            "%d = arith.subi %j, %i : index", "%n = arith.index_cast %d : index to i32",
            "%f = arith.sitofp %n : i32 to f32", "%r = arith.mulf %b0, %f : f32",
        ]  # fmt: skip
        distance = np.arange(shape[2])[None, :] - np.arange(shape[1])[:, None]
        bias = net.elementwise([(slopes, [0])], shape, body, "%r", lambda a: a * distance)
        return net.binary(s, bias, [heads, rows, keys], "addf")

    def square(self) -> tuple[int, int]:
        return self.size["l"], self.size["s"]
