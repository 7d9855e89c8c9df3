"""Are two expressions the same function of their coordinates, up to a renaming of loops?"""

from __future__ import annotations

from .axes import Atom, Lin, over, plus
from .expr import COMMUTATIVE, FLOAT_CASTS, Apply, Const, Load, Node, Position
from .reader import Reader


def strip_casts(reader: Reader, node: Node, trail: list[Load] | None = None) -> Node:
    """The head of the node below casts between float types; loads passed go to ``trail``."""
    while True:
        if isinstance(node, Load):
            if trail is not None:
                trail.append(node)
            up = reader.step(node)
            if up is node:
                return node
            node = up
        elif isinstance(node, Apply) and node.name in FLOAT_CASTS:
            node = node.args[0]
        else:
            return node


class Unifier:
    """Matches expressions ``a`` against ``b``, whose ``bound`` axes may be renamed."""

    def __init__(self, reader: Reader, bound: set[Atom]) -> None:
        self.reader = reader
        self.bound = bound
        self.binding: dict[Atom, Lin] = {}

    def same(self, a: Node, b: Node) -> bool:
        if a is b and not self.bound:
            return True
        if isinstance(a, Load) and isinstance(b, Load) and a.value == b.value:
            saved = dict(self.binding)
            if self._coords(a, b):
                return True
            self.binding = saved  # it may not vary with the coordinates that differ
        # structural ops first: one tensor may be reached by two ways
        a = strip_casts(self.reader, a)
        b = strip_casts(self.reader, b)
        if isinstance(a, Load) and isinstance(b, Load):
            return a.value == b.value and self._coords(a, b)
        if isinstance(a, Const) and isinstance(b, Const):
            return a.value == b.value or (a.value != a.value and b.value != b.value)
        if isinstance(a, Position) and isinstance(b, Position):
            return self.lin(a.lin, b.lin)
        if not (isinstance(a, Apply) and isinstance(b, Apply)):
            return a == b
        if a.name != b.name or len(a.args) != len(b.args):
            return False
        saved = dict(self.binding)
        if all(self.same(x, y) for x, y in zip(a.args, b.args, strict=True)):
            return True
        if a.name in COMMUTATIVE:
            self.binding = saved
            return self.same(a.args[0], b.args[1]) and self.same(a.args[1], b.args[0])
        return False

    def _coords(self, a: Load, b: Load) -> bool:
        return all(self.lin(x, y) for x, y in zip(a.coords, b.coords, strict=True))

    def lin(self, a: Lin, b: Lin) -> bool:
        a, b = self.reader.space.resolve(a), self.reader.space.resolve(b)
        unknown = []
        rest = Lin((), b.const)
        for atom, c in b.terms:
            if atom in self.binding:
                rest = rest.add(self.binding[atom], c)
            elif self._is_bound(atom):
                unknown.append((atom, c))
            else:
                rest = rest.add(Lin(((atom, 1),)), c)
        left = a.add(rest, -1)
        if not unknown:
            return not left.terms and left.const == 0
        if len(unknown) == 1:
            atom, c = unknown[0]
            return self._bind(atom, c, left)
        for atom, c in unknown:
            match = next((t for t in left.terms if t[1] == c and t[0].extent == atom.extent), None)
            if match is None:
                return False
            self.binding[atom] = Lin(((match[0], 1),))
            left = left.add(Lin((match,)), -1)
        return not left.terms and left.const == 0

    def _is_bound(self, atom: Atom) -> bool:
        if atom in self.bound:
            return True
        for root in list(self.bound):
            if any(x is atom for x in self.reader.space.resolve(Lin(((root, 1),))).atoms()):
                self.bound.add(atom)
                return True
        return False

    def _bind(self, atom: Atom, c: object, lin: Lin) -> bool:
        terms = {}
        for a, k in lin.terms:
            quotient = over(k, c)  # type: ignore[arg-type]
            if quotient is None:
                return False
            terms[a] = quotient
        const = over(lin.const, c)  # type: ignore[arg-type]
        if const is None:
            return False
        self.binding[atom] = Lin.build(terms, const)
        return True

    def bound_form(self, axis: Lin) -> Lin | None:
        """A renamed axis in terms of the axes of ``a``; None where it was never seen."""
        axis = self.reader.space.resolve(axis)
        result = Lin((), axis.const)
        for atom, c in axis.terms:
            target = self.binding.get(atom)
            if target is None:
                return None
            result = result.add(target, c)
        return self.reader.space.resolve(result)


def atoms_of(reader: Reader, lins: list[Lin] | tuple[Lin, ...]) -> set[Atom]:
    return {a for lin in lins for a in reader.space.resolve(lin).atoms()}


def depends(reader: Reader, node: Node, atoms: set[Atom]) -> bool:
    """Whether the expression varies with one of the axes (true where it cannot be told)."""
    if isinstance(node, Load):
        # each time anew: the step before may have split the axes
        if not atoms_of(reader, node.coords) & reader.space.live(atoms):
            return False
        up = reader.step(node)
        return True if up is node else depends(reader, up, atoms)
    if isinstance(node, Apply):
        # the product inside the region of an attention op varies with every score axis
        return node.name == "scaled_dot" or any(depends(reader, a, atoms) for a in node.args)
    if isinstance(node, Position):
        return bool(atoms_of(reader, [node.lin]) & reader.space.live(atoms))
    return False


def node_atoms(reader: Reader, node: Node) -> set[Atom]:
    """The axes that the expression varies with, at most."""
    if isinstance(node, Load):
        if not atoms_of(reader, node.coords):
            return set()
        up = reader.step(node)
        return atoms_of(reader, node.coords) if up is node else node_atoms(reader, up)
    if isinstance(node, Apply):
        return set().union(*(node_atoms(reader, a) for a in node.args))
    if isinstance(node, Position):
        return atoms_of(reader, [node.lin])
    return set()


__all__ = ["Unifier", "atoms_of", "depends", "node_atoms", "plus", "strip_casts"]
