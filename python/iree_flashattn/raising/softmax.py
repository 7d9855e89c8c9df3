"""Is this expression a softmax over exactly these axes, and of what?

A softmax is ``linalg.softmax`` or a quotient of exponentials (quotient.py), inside guards and
factors that do not vary over the keys.
"""

from __future__ import annotations

import math

from .axes import Lin, dense_length, plus
from .exponent import exponent, terms_of
from .expr import Apply, Const, Load, Node
from .fills import lowest_useful
from .folding import apply, negate
from .guards import check_guards, is_infinite, is_row_guard
from .quotient import RULE, Softmax, holds_probabilities, match_quotient, quotient_of
from .reader import Reader
from .refuse import Refuse
from .unify import Unifier, atoms_of, depends, strip_casts


def match_softmax(reader: Reader, node: Node, keys: list[Lin]) -> Softmax:
    """The softmax that ``node`` is over the axes ``keys``. Raises :class:`Refuse`."""
    key_atoms = atoms_of(reader, keys)
    trail: list[Load] = []
    head = strip_casts(reader, node, trail)
    factors: list[Node] = []
    scaled: list[Load] = []
    guards: list[Node] = []
    while isinstance(head, Apply):
        outer = _outer_factor(reader, head, key_atoms)
        if outer is not None:
            if guards:
                raise Refuse(RULE, "the probabilities are scaled inside a guard", head.name)
            rest, factor = outer
            factors.append(factor)
            scaled += trail
            trail = []
            head = strip_casts(reader, rest, trail)
        elif head.name == "select":
            rest = _guard(reader, head, guards)
            head = strip_casts(reader, rest)
        else:
            break
    found = None
    if isinstance(head, Load):
        found = _named_softmax(reader, head, keys)
    if found is None:
        numerator, denominator, spelling = quotient_of(reader, head, key_atoms)
        masks = [g for g in guards if not is_row_guard(reader, g, head)]
        guards = [g for g in guards if g not in masks]
        found = _match_masked(reader, numerator, denominator, keys, masks)
        found.spelling = spelling
        found.zero_rows = found.zero_rows or bool(masks)
    found.trail, found.scaled, found.factors = trail, scaled, factors
    return check_guards(reader, found, guards, head)


def _match_masked(
    reader: Reader, numerator: Node, denominator: Node, keys: list[Lin], masks: list[Node]
) -> Softmax:
    """The quotient, zero where one of ``masks`` holds: scores must be masked there, and there
    only."""
    key_atoms = atoms_of(reader, keys)
    masked = numerator
    for guard in masks:
        masked = Apply("select", (guard, Const(0.0, "f32"), masked), "f32")
    try:
        return match_quotient(reader, masked, denominator, keys, key_atoms)
    except Refuse:
        if len(masks) != 1:
            raise
        found = match_quotient(reader, numerator, denominator, keys, key_atoms)
        terms = [(sign, _emptied(reader, node, masks[0])) for sign, node in found.terms]
        if terms == found.terms:
            raise
        found.terms = terms
        return found


def _emptied(reader: Reader, node: Node, guard: Node) -> Node:
    """Scores with -inf where the guard holds, if they have a number there that underflows.

    DeBERTa's softmax fills with the lowest float, and clears what that leaves in rows that are
    masked as a whole.
    """
    head = strip_casts(reader, node)
    if not isinstance(head, Apply) or head.name != "select":
        return node
    condition, yes, no = head.args
    for drop, filled, rest in ((condition, yes, no), (negate(condition), no, yes)):
        constant = strip_casts(reader, filled)
        if not isinstance(constant, Const) or not constant.value <= lowest_useful(head.dtype):
            continue
        if Unifier(reader, set()).same(drop, guard):
            return Apply("select", (drop, Const(-math.inf, "f32"), rest), head.dtype)
    return node


def _guard(reader: Reader, head: Apply, guards: list[Node]) -> Node:
    """What is selected unless a guard holds."""
    condition, yes, no = head.args
    for guard, value, rest in ((condition, yes, no), (negate(condition), no, yes)):
        constant = strip_casts(reader, value)
        if not isinstance(constant, Const):
            continue
        if is_infinite(reader, guard, strip_casts(reader, rest)):
            return rest  # probabilities are never infinite
        if constant.value == 0:
            guards.append(guard)
            return rest
    near = holds_probabilities(reader, head)
    raise Refuse(RULE, "the probabilities are selected by a condition", "select", near)


def _outer_factor(reader: Reader, head: Apply, keys: set) -> tuple[Node, Node] | None:
    """(P, factor) where P is multiplied by something that is the same for all keys."""
    if head.name == "divf":
        top = strip_casts(reader, head.args[0])
        holds_p = exponent(reader, top, keys) is None
        if holds_p and not depends(reader, head.args[1], keys) and _holds_softmax(reader, top):
            return head.args[0], apply("divf", (Const(1.0, "f32"), head.args[1]), "f32")
    if head.name == "mulf":
        for a, b in (head.args, head.args[::-1]):
            top = strip_casts(reader, a)
            if isinstance(top, Apply) and top.name in ("exp", "exp2"):
                continue
            if _holds_softmax(reader, top) and not depends(reader, b, keys):
                return a, b
    return None


def _holds_softmax(reader: Reader, head: Node) -> bool:
    """A quick look: a quotient, a selection or a named softmax may be probabilities."""
    if isinstance(head, Load):
        op = reader.producer(head.value)
        return op is not None and op.name == "linalg.softmax"
    if not isinstance(head, Apply):
        return False
    if head.name in ("mulf", "divf"):
        return any(
            isinstance(h, Apply) and (h.name in ("exp", "exp2") or _holds_softmax(reader, h))
            for h in (strip_casts(reader, a) for a in head.args)
        )
    if head.name == "exp":
        return any(_is_log(reader, a) for a in _subtracted(reader, head.args[0]))
    if head.name == "select":
        return any(_holds_softmax(reader, strip_casts(reader, a)) for a in head.args[1:])
    return False


def _subtracted(reader: Reader, node: Node, depth: int = 4) -> list[Node]:
    head = strip_casts(reader, node)
    if depth and isinstance(head, Apply) and head.name in ("subf", "addf"):
        inner = _subtracted(reader, head.args[0], depth - 1)
        return [*inner, *_subtracted(reader, head.args[1], depth - 1)]
    return [head]


def _is_log(reader: Reader, node: Node) -> bool:
    head = strip_casts(reader, node)
    return isinstance(head, Apply) and head.name == "log"


def _named_softmax(reader: Reader, load: Load, keys: list[Lin]) -> Softmax | None:
    op = reader.producer(load.value)
    if op is None or op.name != "linalg.softmax":
        return None
    dim = op.attributes["dimension"].value
    key = reader.space.resolve(load.coords[dim])
    extent = reader.sizes.shape(load.value)[dim]
    length = dense_length(key)
    sinks: Node | None = None
    if length is not None and plus(extent, -1) == length:  # the last column is cut off: a sink
        coords = [*load.coords[:dim], Lin((), length), *load.coords[dim + 1 :]]
        sinks = reader.load(op.operands[0], coords)
        length = extent
    if length != extent or set(key.atoms()) != atoms_of(reader, keys):
        raise Refuse(RULE, "linalg.softmax runs over another axis than the product", op.name)
    source = reader.load(op.operands[0], load.coords)
    terms = terms_of(reader, source, set(key.atoms()))
    return Softmax(terms, keys, sinks, spelling="linalg.softmax")
