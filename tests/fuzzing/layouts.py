"""Layouts of random programs: which dims a tensor has, in which order, merged or split.

Tensors carry labels (b batch, n kv head, g head in its group, l query, s key, d and e head dims).
``twist`` swaps the meaning of two dims of equal size without moving an element, which makes
look-alikes: whatever comes out, the net knows its true values.
"""

from __future__ import annotations

import numpy as np

from fuzzing.net import Net, Val

Labels = tuple[str, ...]  # one string of labels for each dim


class Layouts:
    def __init__(self, seed: int, dynamic: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        # What came later draws from numbers of its own, so that known seeds stay what they are.
        self.later = np.random.default_rng([seed, 1])
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
        self.features: set[str] = set()  # what the program has, for the tally
        self.element = self.pick(["f32"] * 5 + ["f16", "bf16"])
        # Where operands are 16 bits wide: the scores may be f32 from the start.
        self.wide = self.element == "f32" or self.chance(0.4)

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

    def seldom(self, p: float) -> bool:
        return bool(self.later.random() < p)

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
            self.features.add("slice of an input")
            before, after = int(self.rng.integers(3)), int(self.rng.integers(3))
            shape[dim] += before + after
            whole = self.net.input(tuple(shape), self.element)
            x = self.net.slice(whole, dim, before, shape[dim] - before - after)
        else:
            x = self.net.input(tuple(shape), self.element)
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

    def unit_detour(self, x: Val) -> Val:
        """A dim of one is put in somewhere, moved, and taken out."""
        self.features.add("dim of one")
        rank = len(x.shape)
        at = int(self.rng.integers(rank))
        groups = [[i] if i < at else [i, i + 1] if i == at else [i + 1] for i in range(rank)]
        x = self.net.reshape(x, groups, (*x.shape[:at], 1, *x.shape[at:]))
        if self.chance(0.5):  # (.., 1, n, ..) to (.., n, 1, ..)
            order = list(range(rank + 1))
            order[at], order[at + 1] = at + 1, at
            x = self.net.transpose(x, order, generic=self.chance(0.5))
            shape = (*x.shape[: at + 1], *x.shape[at + 2 :])
        else:
            shape = (*x.shape[:at], *x.shape[at + 1 :])
        return self.net.reshape(x, groups, shape)

    def layout(self, x: Val, labels: Labels, target: Labels) -> Val:
        """The tensor in another layout, by reshapes and transposes, with detours."""
        x, labels = self.split(x, labels)
        flat = tuple(c for group in target for c in group)
        if self.chance(0.15):
            detour = list(flat)
            self.rng.shuffle(detour)
            x = self.permute(x, labels, tuple(detour))
            labels = self.twist(tuple(detour))
        if self.chance(0.08):
            x = self.unit_detour(x)
        if self.chance(0.1) and len(labels) > 1:
            whole = ("".join(labels),)
            x = self.merge(x, labels, whole)
            x, labels = self.split(x, whole)
        x = self.permute(x, labels, flat)
        return self.merge(x, self.twist(flat), target)

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
                self.features.add("swapped operands")
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


def _has(labels: Labels, c: str) -> bool:
    return any(c in group for group in labels)
