"""Exponents: A where a node is exp(A), in whatever base, as a sum of signed terms."""

from __future__ import annotations

import math

from .expr import Apply, Const, Node
from .folding import negate
from .indicators import condition_of
from .leaves import has_product
from .reader import Reader
from .unify import Unifier, depends, strip_casts

Term = tuple[int, Node]  # sign, expression
LN2 = Const(math.log(2.0), "f64")


def terms_of(reader: Reader, node: Node, keys: set, sign: int = 1) -> list[Term]:
    """The node as a sum of signed terms, opened where it holds scores or is the same for a row."""
    head = strip_casts(reader, node)
    if isinstance(head, Apply) and head.name in ("addf", "subf", "negf"):
        opens = has_product(reader, head) or not depends(reader, head, keys)
        if opens:
            signs = {"addf": (1, 1), "subf": (1, -1), "negf": (-1,)}[head.name]
            return [
                t
                for s, a in zip(signs, head.args, strict=True)
                for t in terms_of(reader, a, keys, sign * s)
            ]
    return [(sign, node)]


def without_base(*lists: list[Term]) -> list[list[Term]]:
    """The terms as they are written, where all of them stand under an exp2."""
    base_two = all(
        isinstance(node, Apply) and node.name == "mulf" and node.args[1] is LN2
        for terms in lists
        for _, node in terms
    )
    if not base_two:
        return list(lists)
    return [[(s, node.args[0]) for s, node in terms] for terms in lists]  # type: ignore[union-attr]


def exponent(reader: Reader, node: Node, keys: set) -> list[Term] | None:
    """The terms of A where the node is exp(A) or exp2(A)."""
    head = strip_casts(reader, node)
    if isinstance(head, Apply) and head.name == "exp":
        return terms_of(reader, head.args[0], keys)
    base_two = _power_of_two(reader, head)
    if base_two is not None:
        inner = terms_of(reader, base_two, keys)
        return [(s, Apply("mulf", (t, LN2), "f32")) for s, t in inner]
    if isinstance(head, Apply) and head.name == "select":
        # exp(x) where c holds, else 0, is exp(x + (0 where c holds, else -inf))
        condition, yes, no = head.args
        for keep, x, zero in ((condition, yes, no), (negate(condition), no, yes)):
            if is_zero(reader, zero):
                terms = exponent(reader, x, keys)
                if terms is None:
                    return None
                terms = [(sign, _where(reader, node, keep)) for sign, node in terms]
                return [*terms, (1, masking(keep))]
    if isinstance(head, Apply) and head.name == "mulf":
        # exp(x) times 0 or 1 is the same
        for x, number in (head.args, head.args[::-1]):
            found = strip_casts(reader, x)
            if isinstance(found, Apply) and found.name in ("exp", "exp2", "powf"):
                keep = condition_of(reader, number)
                terms = None if keep is None else exponent(reader, x, keys)
                if keep is not None and terms is not None:
                    return [*terms, (1, masking(keep))]
    return None


def _where(reader: Reader, node: Node, keep: Node) -> Node:
    """What the node is where the condition holds: ``select(keep, s, 0)`` is s there."""
    head = strip_casts(reader, node)
    if isinstance(head, Apply) and head.name == "select":
        condition, yes, no = head.args
        for holds, value in ((condition, yes), (negate(condition), no)):
            if Unifier(reader, set()).same(holds, keep):
                return value
    return node


def masking(keep: Node) -> Node:
    """0 where the condition holds, else -inf."""
    return Apply("select", (keep, Const(0.0, "f32"), Const(-math.inf, "f32")), "f32")


def _power_of_two(reader: Reader, head: Node) -> Node | None:
    if isinstance(head, Apply) and head.name == "exp2":
        return head.args[0]
    if isinstance(head, Apply) and head.name == "powf":
        base = strip_casts(reader, head.args[0])
        if isinstance(base, Const) and base.value == 2:
            return head.args[1]
    return None


def is_zero(reader: Reader, node: Node) -> bool:
    head = strip_casts(reader, node)
    return isinstance(head, Const) and head.value == 0


def same_terms(unifier: Unifier, ours: list[Term], theirs: list[Term]) -> bool:
    """Whether both sums have the same terms, in any order; binds theirs to ours."""
    left = list(theirs)
    for sign, node in ours:
        for i, (s, other) in enumerate(left):
            saved = dict(unifier.binding)
            if s == sign and unifier.same(node, other):
                del left[i]
                break
            unifier.binding = saved
        else:
            return False
    return not left
