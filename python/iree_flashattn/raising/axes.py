"""Named axes and coordinates: where an element of a tensor lies, as a linear form over axes.

An :class:`Atom` is one loop with an extent. A :class:`Lin` is ``const + sum(coefficient * atom)``;
coefficients and constants are ints, or :class:`Extent` where a size is known only at run time. A
:class:`Space` splits atoms when a reshape needs it: an axis of 8 heads * 64 columns that is read
through ``collapse_shape`` becomes two atoms, and every form over the old axis follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from ..extent import Extent

Size = int | Extent


def size(value: Size) -> Size:
    """The same size, an int where it is static."""
    if isinstance(value, Extent):
        static = value.static
        return value if static is None else static
    return value


def times(a: Size, b: Size) -> Size:
    if isinstance(a, int):
        if isinstance(b, int):
            return a * b
        a, b = b, a
    return size(a * b)


def plus(a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return size(Extent.of(a) + b)


def over(a: Size, b: Size) -> Size | None:
    """The exact quotient, or None."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    quotient = Extent.of(a).divided_by(b)
    return None if quotient is None else size(quotient)


class Atom:
    """One loop; never of extent 1 (such a loop is the constant 0)."""

    __slots__ = ("extent", "id", "name")
    _ids = count()

    def __init__(self, extent: Size, name: str = "") -> None:
        self.extent = extent
        self.id = next(Atom._ids)
        self.name = name

    def __repr__(self) -> str:
        return f"{self.name or 'a'}{self.id}:{self.extent}"


class Lin:
    """``const + sum(coefficient * atom)``, immutable, in canonical order."""

    __slots__ = ("_hash", "const", "terms")

    def __init__(self, terms: tuple[tuple[Atom, Size], ...] = (), const: Size = 0) -> None:
        self.terms = terms
        self.const = const
        self._hash = hash((tuple((a.id, c) for a, c in terms), const))

    @staticmethod
    def build(terms: dict[Atom, Size], const: Size = 0) -> Lin:
        kept = [(a, c) for a, c in terms.items() if not (isinstance(c, int) and c == 0)]
        kept.sort(key=lambda t: t[0].id)
        return Lin(tuple(kept), const)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Lin)
            and self._hash == other._hash
            and self.terms == other.terms
            and self.const == other.const
        )

    def add(self, other: Lin, factor: Size = 1) -> Lin:
        if not other.terms and other.const == 0:
            return self
        terms = dict(self.terms)
        for atom, c in other.terms:
            terms[atom] = plus(terms.get(atom, 0), times(c, factor))
        return Lin.build(terms, plus(self.const, times(other.const, factor)))

    def scaled(self, factor: Size) -> Lin:
        if factor == 1:
            return self
        return ZERO.add(self, factor)

    def atoms(self) -> Iterable[Atom]:
        return (a for a, _ in self.terms)

    def __repr__(self) -> str:
        parts = [f"{c}*{a}" for a, c in self.terms]
        return " + ".join([*parts, str(self.const)])


ZERO = Lin()


class Space:
    """The axes of one question and how they were split, plus sizes known to be equal."""

    def __init__(self) -> None:
        self._splits: dict[Atom, Lin] = {}

    def axis(self, extent: Size, name: str = "") -> Lin:
        """A fresh axis as a coordinate (the constant 0 for an extent of 1)."""
        return ZERO if extent == 1 else Lin(((Atom(extent, name), 1),))

    def resolve(self, lin: Lin) -> Lin:
        """The form over atoms that are not split."""
        splits = self._splits
        if not splits:
            return lin
        while not splits.keys().isdisjoint([a for a, _ in lin.terms]):
            result = Lin((), lin.const)
            for atom, c in lin.terms:
                part = splits.get(atom) or Lin(((atom, 1),))
                result = result.add(part, c)
            lin = result
        return lin

    def live(self, atoms: set[Atom]) -> set[Atom]:
        """The axes that are left of these, after splits."""
        if self._splits.keys().isdisjoint(atoms):
            return atoms
        return {a for atom in atoms for a in self.resolve(Lin(((atom, 1),))).atoms()}

    def _split(self, atom: Atom, inner: Size) -> None:
        outer = over(atom.extent, inner)
        assert outer is not None
        high, low = self.axis(outer, atom.name), self.axis(inner, atom.name)
        self._splits[atom] = low.add(high, inner)

    def divide(self, lin: Lin, n: Size) -> tuple[Lin, Lin] | None:
        """(quotient, remainder) by ``n`` as forms, splitting axes if need be; None if neither is
        one."""
        if n == 1:
            return lin, ZERO
        lin = self.resolve(lin)
        for atom, c in lin.terms:
            if over(c, n) is not None or over(n, times(c, atom.extent)) is not None:
                continue
            inner = over(n, c)
            if inner is None or inner == 1:
                continue
            if over(atom.extent, inner) is not None:
                self._split(atom, inner)
        lin = self.resolve(lin)
        high: dict[Atom, Size] = {}
        low: dict[Atom, Size] = {}
        for atom, c in lin.terms:
            quotient = over(c, n)
            if quotient is not None:
                high[atom] = quotient
            else:
                low[atom] = c
        if isinstance(lin.const, int) and isinstance(n, int):
            const_high, const_low = divmod(lin.const, n)
        else:
            quotient = over(lin.const, n)
            const_high, const_low = (quotient, 0) if quotient is not None else (0, lin.const)
        remainder = Lin.build(low, const_low)
        if not _below(remainder, n):
            return None
        return Lin.build(high, const_high), remainder

    def delinearize(self, lin: Lin, sizes: list[Size]) -> list[Lin] | None:
        """Coordinates of a row-major index; the outermost needs no bound (it is one already)."""
        result: list[Lin] = []
        units = True
        for index in range(len(sizes) - 1, 0, -1):
            if units and all(s == 1 for s in sizes[:index]):
                return [ZERO] * index + [self.resolve(lin)] + [self.resolve(r) for r in result]
            parts = self.divide(lin, sizes[index])
            if parts is None:
                return None
            lin, low = parts
            result.insert(0, low)
        return [self.resolve(r) for r in [lin, *result]]


def _below(lin: Lin, n: Size) -> bool:
    """Whether ``0 <= lin < n`` for all values of its atoms."""
    if not lin.terms:
        return lin.const == 0 or (
            isinstance(lin.const, int) and isinstance(n, int) and 0 <= lin.const < n
        )
    if isinstance(n, int) and isinstance(lin.const, int):
        top = lin.const
        for atom, c in lin.terms:
            if not isinstance(c, int) or not isinstance(atom.extent, int) or c < 0:
                return False
            top += c * (atom.extent - 1)
        return lin.const >= 0 and top < n
    if lin.const != 0:
        return False
    length = dense_length(lin)
    return length is not None and over(n, length) is not None


def dense_length(lin: Lin) -> Size | None:
    """N when the form counts 0..N-1 exactly once over its atoms (mixed radix), else None."""
    if lin.const != 0:
        return None
    left = list(lin.terms)
    length: Size = 1
    while left:
        for position, (atom, c) in enumerate(left):
            if c == length:
                length = times(length, atom.extent)
                del left[position]
                break
        else:
            return None
    return length
