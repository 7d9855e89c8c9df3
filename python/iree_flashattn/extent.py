"""Sizes, strides and offsets: integer polynomials over SSA ``index`` values.

An :class:`Extent` is static when it has no symbols. Two extents are equal exactly when their
polynomials are, so ``L == S`` holds only where it is proven. Symbols are whatever identifies a
run-time size (``ir.Value`` in the compiler, strings in tests); they must be hashable.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from math import prod
from typing import Any, TypeVar

T = TypeVar("T")


class Extent:
    """``sum(coefficient * product(symbols))``; immutable."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[tuple[Hashable, ...], int] | int = 0) -> None:
        self._hash: int | None = None
        self.terms: dict[tuple[Hashable, ...], int]
        if isinstance(terms, int):
            self.terms = {(): terms} if terms else {}
        else:
            self.terms = {k: v for k, v in terms.items() if v}

    @staticmethod
    def of(value: Extent | int) -> Extent:
        return value if isinstance(value, Extent) else Extent(value)

    @staticmethod
    def symbol(value: Hashable) -> Extent:
        return Extent({(value,): 1})

    @property
    def static(self) -> int | None:
        """The value, or None where it is known only at run time."""
        terms = self.terms
        if not terms:
            return 0
        return terms.get(()) if len(terms) == 1 else None

    def __int__(self) -> int:
        value = self.static
        if value is None:
            raise ValueError(f"{self} is not static")
        return value

    def __add__(self, other: Extent | int) -> Extent:
        terms = dict(self.terms)
        for key, coefficient in Extent.of(other).terms.items():
            terms[key] = terms.get(key, 0) + coefficient
        return Extent(terms)

    __radd__ = __add__

    def __neg__(self) -> Extent:
        return Extent({k: -v for k, v in self.terms.items()})

    def __sub__(self, other: Extent | int) -> Extent:
        return self + (-Extent.of(other))

    def __rsub__(self, other: int) -> Extent:
        return Extent.of(other) - self

    def __mul__(self, other: Extent | int) -> Extent:
        if isinstance(other, int):
            return self if other == 1 else Extent({k: c * other for k, c in self.terms.items()})
        terms: dict[tuple[Hashable, ...], int] = {}
        for a, ca in self.terms.items():
            for b, cb in other.terms.items():
                key = tuple(sorted(a + b, key=hash)) if a and b else a + b
                terms[key] = terms.get(key, 0) + ca * cb
        return Extent(terms)

    __rmul__ = __mul__

    def is_multiple_of(self, number: int) -> bool:
        """Whether it is one whatever its symbols are."""
        return all(c % number == 0 for c in self.terms.values())

    def divided_by(self, other: Extent | int) -> Extent | None:
        """The exact quotient, or None if there is none: division of polynomials."""
        other = Extent.of(other)
        if not other.terms:
            return None
        lead, divisor = other._leading()
        quotient, rest = Extent(), self
        for _ in range(64):
            if not rest.terms:
                return quotient
            key, coefficient = rest._leading()
            left = list(key)
            for symbol in lead:
                if symbol not in left:
                    return None
                left.remove(symbol)
            if coefficient % divisor:
                return None
            part = Extent({tuple(left): coefficient // divisor})
            quotient, rest = quotient + part, rest - part * other
        return None

    def _leading(self) -> tuple[tuple[Hashable, ...], int]:
        """The greatest term in a monomial order: by degree, then by symbols."""

        def order(term: tuple[tuple[Hashable, ...], int]) -> tuple[int, list[int]]:
            return len(term[0]), sorted(map(hash, term[0]), reverse=True)

        return max(self.terms.items(), key=order)

    def evaluate(self, value_of: Callable[[Hashable], T], one: T | int = 1) -> Any:
        """The polynomial in the ring of ``value_of``'s results (ints in tests)."""
        return sum(c * prod((value_of(s) for s in key), start=one) for key, c in self.terms.items())

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, int):
            return self.static == other
        return isinstance(other, Extent) and self.terms == other.terms

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.terms.items()))
        return self._hash

    def __repr__(self) -> str:
        if self.static is not None:
            return str(self.static)
        parts = []
        for key, coefficient in self.terms.items():
            factors = ["?" if not isinstance(s, str) else s for s in key]
            if coefficient != 1 or not factors:
                factors.insert(0, str(coefficient))
            parts.append("*".join(factors))
        return " + ".join(parts)
