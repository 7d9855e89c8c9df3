"""Is this expression a softmax over exactly these axes, and of what?

A softmax is any quotient ``exp(A) / sum(exp(A))`` where the sum runs over the same axes as the
product with V: written as a division, a product with a reciprocal, or ``exp(A - log(sum))``, with
any row maximum subtracted before. What is subtracted from A and does not vary over the keys
cancels; row maxima are dropped because they are finite wherever a score is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .axes import Lin, dense_length
from .expr import Apply, Const, Load, Node, Reduce
from .folding import apply, negate
from .leaves import has_product
from .reader import Reader
from .refuse import Refuse, describe
from .rowmax import drop_row_maxima
from .unify import Unifier, atoms_of, depends, strip_casts

Term = tuple[int, Node]  # sign, expression

RULE = "softmax"


@dataclass
class Softmax:
    terms: list[Term]  # their sum is the score, up to what cancels
    keys: list[Lin]
    sinks: Node | None = None
    stable: bool = True  # a row maximum is subtracted before the exponential
    zero_rows: bool = False  # a guard makes a row without any finite score zero
    trail: list[Load] = field(default_factory=list)  # tensors that hold P, outermost first
    scaled: list[Load] = field(default_factory=list)  # tensors that hold P times ``factors``
    factors: list[Node] = field(default_factory=list)  # what P is multiplied by before V
    spelling: str = "exp / sum"


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
        numerator, denominator, spelling = _quotient(reader, head, key_atoms)
        masks = [g for g in guards if not _is_row_guard(reader, g, head)]
        for guard in masks:
            # probabilities are zero where the scores are masked, and there only
            guards.remove(guard)
            arguments = (guard, Const(0.0, "f32"), numerator)
            numerator = Apply("select", arguments, "f32")
        found = _match_quotient(reader, numerator, denominator, keys, key_atoms)
        found.spelling = spelling
        found.zero_rows = bool(masks)
    found.trail, found.scaled, found.factors = trail, scaled, factors
    return _guarded(reader, found, guards, head)


def _is_row_guard(reader: Reader, guard: Node, p: Node) -> bool:
    """Whether a guard speaks of whole rows (NaN, no finite score), not of single elements."""
    inner, _ = _peel_not(reader, guard)
    return isinstance(inner, Load) and reader.reduction(inner) is not None or _is_nan(
        reader, guard, p
    )


def _guard(reader: Reader, head: Apply, guards: list[Node]) -> Node:
    """What is selected unless a guard holds."""
    condition, yes, no = head.args
    for guard, value, rest in ((condition, yes, no), (negate(condition), no, yes)):
        constant = strip_casts(reader, value)
        if not isinstance(constant, Const):
            continue
        if _is_infinite(reader, guard, strip_casts(reader, rest)):
            return rest  # probabilities are never infinite
        if constant.value == 0:
            guards.append(guard)
            return rest
    raise Refuse(RULE, "the probabilities are selected by a condition", "select")


def _is_infinite(reader: Reader, guard: Node, p: Node) -> bool:
    head = strip_casts(reader, guard)
    if not isinstance(head, Apply) or head.name != "cmpf.oeq":
        return False
    for a, b in (head.args, head.args[::-1]):
        constant = strip_casts(reader, b)
        if isinstance(constant, Const) and math.isinf(float(constant.value)):
            return Unifier(reader, set()).same(a, p)
    return False


def _outer_factor(reader: Reader, head: Apply, keys: set) -> tuple[Node, Node] | None:
    """(P, factor) where P is multiplied by something that is the same for all keys."""
    if head.name == "divf":
        top = strip_casts(reader, head.args[0])
        holds_p = not (isinstance(top, Apply) and top.name in ("exp", "exp2"))
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


def _is_zero(reader: Reader, node: Node) -> bool:
    head = strip_casts(reader, node)
    return isinstance(head, Const) and head.value == 0


def _named_softmax(reader: Reader, load: Load, keys: list[Lin]) -> Softmax | None:
    op = reader.producer(load.value)
    if op is None or op.name != "linalg.softmax":
        return None
    dim = op.attributes["dimension"].value
    key = reader.space.resolve(load.coords[dim])
    extent = reader.sizes.shape(load.value)[dim]
    if dense_length(key) != extent or set(key.atoms()) != atoms_of(reader, keys):
        raise Refuse(RULE, "linalg.softmax runs over another axis than the product", op.name)
    source = reader.load(op.operands[0], load.coords)
    terms = terms_of(reader, source, set(key.atoms()))
    return Softmax(terms, keys, spelling="linalg.softmax")


def _quotient(reader: Reader, head: Node, keys: set) -> tuple[Node, Node, str]:
    """(numerator, denominator) of the probabilities."""
    if isinstance(head, Apply):
        if head.name == "divf":
            return head.args[0], head.args[1], "exp / sum"
        if head.name == "mulf":
            for a, b in (head.args, head.args[::-1]):
                inverse = strip_casts(reader, b)
                if isinstance(inverse, Apply) and inverse.name == "divf":
                    one = strip_casts(reader, inverse.args[0])
                    if isinstance(one, Const) and one.value == 1:
                        return a, inverse.args[1], "exp * (1 / sum)"
        if head.name == "exp":
            terms = terms_of(reader, head.args[0], keys)
            for position, (sign, node) in enumerate(terms):
                log = strip_casts(reader, node)
                if sign == -1 and isinstance(log, Apply) and log.name == "log":
                    rest = terms[:position] + terms[position + 1 :]
                    return _exp_of(rest), log.args[0], "exp(x - log sum)"
            raise Refuse(RULE, "the exponentials are never divided by their sum", "exp")
    raise Refuse(RULE, "no quotient of exponentials", describe(reader, head))


def _exp_of(terms: list[Term]) -> Node:
    total: Node = Const(0.0, "f32")
    for sign, node in terms:
        total = apply("addf" if sign > 0 else "subf", (total, node), "f32")
    return Apply("exp", (total,), "f32")


def exponent(reader: Reader, node: Node, keys: set) -> list[Term] | None:
    """The terms of A where the node is exp(A) or exp2(A)."""
    head = strip_casts(reader, node)
    if isinstance(head, Apply) and head.name == "exp":
        return terms_of(reader, head.args[0], keys)
    base_two = _power_of_two(reader, head)
    if base_two is not None:
        ln2 = Const(math.log(2.0), "f64")
        inner = terms_of(reader, base_two, keys)
        return [(s, Apply("mulf", (t, ln2), "f32")) for s, t in inner]
    if isinstance(head, Apply) and head.name == "select":
        # exp(x) where c holds, else 0, is exp(x + (0 where c holds, else -inf))
        condition, yes, no = head.args
        for keep, x, zero in ((condition, yes, no), (negate(condition), no, yes)):
            if _is_zero(reader, zero):
                terms = exponent(reader, x, keys)
                if terms is None:
                    return None
                return [*terms, (1, masking(keep))]
    return None


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


def _match_quotient(
    reader: Reader, numerator: Node, denominator: Node, keys: list[Lin], key_atoms: set
) -> Softmax:
    terms = exponent(reader, numerator, key_atoms)
    if terms is None:
        raise Refuse(RULE, "the numerator is no exponential", describe(reader, numerator))
    kept, dropped = drop_row_maxima(reader, terms, key_atoms)
    sinks: Node | None = None
    summed = False
    for part in _sum_parts(reader, denominator):
        head = strip_casts(reader, part)
        if isinstance(head, Load):
            split = _match_sum(reader, head, numerator, terms, keys)
            summed = True
            if split is not None:
                sinks = _one_sink(sinks, _sink(reader, split, dropped, key_atoms))
        elif isinstance(head, Const) and not dropped and float(head.value) > 0:
            sinks = _one_sink(sinks, Const(math.log(float(head.value)), "f32"))
        else:
            sinks = _one_sink(sinks, _sink(reader, part, dropped, key_atoms))
    if not summed:
        raise Refuse(RULE, "the denominator is no sum", describe(reader, denominator))
    return Softmax(kept, keys, sinks, stable=bool(dropped))


def _one_sink(have: Node | None, new: Node) -> Node:
    if have is not None:
        raise Refuse(RULE, "more than one term besides the sum in the denominator")
    return new


def _sum_parts(reader: Reader, node: Node) -> list[Node]:
    head = strip_casts(reader, node)
    if isinstance(head, Apply) and head.name == "addf":
        return _sum_parts(reader, head.args[0]) + _sum_parts(reader, head.args[1])
    return [node]


def _match_sum(
    reader: Reader, load: Load, numerator: Node, terms: list[Term], keys: list[Lin]
) -> Node | None:
    """The leaf is the sum of the numerator over the keys; a concatenated column is returned."""
    op = reader.producer(load.value)
    name = op.name if op is not None else "an argument"
    reduce = reader.reduction(load)
    if reduce is None or reduce.combine != "add":
        raise Refuse(RULE, "the denominator is no sum", name)
    if not _is_zero(reader, reduce.init):
        raise Refuse(RULE, "the sum of the exponentials does not start at zero", name)
    bound = atoms_of(reader, reduce.axes)
    unifier = Unifier(reader, set(bound))
    different = Refuse(RULE, "numerator and denominator are of different scores", name)
    if _same_exponentials(reader, unifier, numerator, terms, reduce.body, bound):
        try:
            _check_axes(reader, unifier, reduce.axes, keys, name)
        except Refuse as refuse:
            different = refuse
        else:
            return None
    column = _split_column(reader, reduce, numerator, terms, keys)
    if column is None:
        raise different
    return column


def _same_exponentials(
    reader: Reader, unifier: Unifier, numerator: Node, terms: list[Term], body: Node, bound: set
) -> bool:
    if unifier.same(numerator, body):
        return True
    unifier.binding.clear()
    theirs = exponent(reader, body, bound | unifier.bound)
    if theirs is None or len(theirs) != len(terms):
        return False
    left = list(theirs)
    for sign, node in terms:
        for i, (s, other) in enumerate(left):
            saved = dict(unifier.binding)
            if s == sign and unifier.same(node, other):
                del left[i]
                break
            unifier.binding = saved
        else:
            return False
    return True


def _check_axes(
    reader: Reader, unifier: Unifier, axes: tuple[Lin, ...], keys: list[Lin], name: str
) -> None:
    """The sum runs over the keys, all of them, each once."""
    seen: set = set()
    for axis in axes:
        form = unifier.bound_form(axis)
        resolved = reader.space.resolve(axis)
        if form is None or dense_length(form) != dense_length(resolved):
            raise Refuse(RULE, "the sum does not run over the keys", name)
        seen |= set(form.atoms())
    # splitting may have renamed the keys since
    if seen != atoms_of(reader, keys):
        raise Refuse(RULE, "sum and product run over different axes", name)


def _split_column(
    reader: Reader, reduce: Reduce, numerator: Node, terms: list[Term], keys: list[Lin]
) -> Node | None:
    """A sum over the keys and one more column: scores concatenated with a sink."""
    from .columns import split_last_column

    parts = split_last_column(reader, reduce)
    if parts is None:
        return None
    axis, body, column = parts
    unifier = Unifier(reader, atoms_of(reader, [axis]))
    if not _same_exponentials(
        reader, unifier, numerator, terms, body, atoms_of(reader, [axis])
    ):
        return None
    _check_axes(reader, unifier, (axis,), keys, "tensor.concat")
    return column


def _sink(reader: Reader, node: Node, dropped: list[Term], keys: set) -> Node:
    """T where the node is exp(T - the row maxima that the scores lost)."""
    terms = exponent(reader, node, keys)
    if terms is None:
        raise Refuse(
            RULE, "something is added to the sum of the exponentials", describe(reader, node)
        )
    left = list(terms)
    for sign, maximum in dropped:
        for i, (s, other) in enumerate(left):
            if s == sign and Unifier(reader, set()).same(maximum, other):
                del left[i]
                break
        else:
            raise Refuse(RULE, "the sink is not relative to the same maximum")
    if len(left) > 1:
        raise Refuse(RULE, "the sink is a sum of terms")
    if not left:
        return Const(0.0, "f32")
    sign, sink = left[0]
    if depends(reader, sink, keys):
        raise Refuse(RULE, "the sink varies over the keys")
    return sink if sign > 0 else Apply("negf", (sink,), "f32")


# -- guards ---------------------------------------------------------------------------------------
def _guarded(reader: Reader, softmax: Softmax, guards: list[Node], p: Node) -> Softmax:
    for guard in guards:
        if not (_is_nan(reader, guard, p) or _all_masked(reader, guard, softmax)):
            raise Refuse(
                RULE, "the probabilities are set to zero by a condition", describe(reader, guard)
            )
        softmax.zero_rows = True
    return softmax


def _is_nan(reader: Reader, guard: Node, p: Node) -> bool:
    head = strip_casts(reader, guard)
    if not isinstance(head, Apply) or head.name not in ("cmpf.une", "cmpf.uno"):
        return False
    unifier = Unifier(reader, set())
    return unifier.same(head.args[0], p) and unifier.same(head.args[1], p)


def _all_masked(reader: Reader, guard: Node, softmax: Softmax) -> bool:
    """not any(score != -inf), in its spellings."""
    inner, negated = _peel_not(reader, guard)
    if not isinstance(inner, Load):
        return False
    reduce = reader.reduction(inner)
    if reduce is None or reduce.combine != ("or" if negated else "and"):
        return False
    init = strip_casts(reader, reduce.init)
    if not isinstance(init, Const) or bool(init.value) != (not negated):
        return False
    body, body_negated = _peel_not(reader, reduce.body)
    if not isinstance(body, Apply) or body.name not in ("cmpf.oeq", "cmpf.une", "cmpf.ueq"):
        return False
    is_equal = (body.name != "cmpf.une") != body_negated
    if is_equal == negated:
        return False
    unifier = Unifier(reader, atoms_of(reader, reduce.axes))
    for x, y in (body.args, body.args[::-1]):
        infinity = strip_casts(reader, y)
        if isinstance(infinity, Const) and infinity.value == -math.inf:
            mine = [t for t in softmax.terms]
            theirs = terms_of(reader, x, atoms_of(reader, reduce.axes))
            if len(mine) != len(theirs):
                return False
            if not all(
                a[0] == b[0] and unifier.same(a[1], b[1])
                for a, b in zip(mine, theirs, strict=True)
            ):
                return False
            _check_axes(reader, unifier, reduce.axes, softmax.keys, "the fully-masked guard")
            return True
    return False


def _peel_not(reader: Reader, node: Node) -> tuple[Node, bool]:
    negated = False
    head = strip_casts(reader, node)
    while isinstance(head, Apply):
        if head.name == "not":
            inner = head.args[0]
        elif head.name in ("cmpi.eq", "cmpi.ne") and _is_false(reader, head.args[1]):
            inner = head.args[0]
            if head.name == "cmpi.ne":
                head = strip_casts(reader, inner)
                continue
        elif head.name == "xori" and _is_true(reader, head.args[1]):
            inner = head.args[0]
        else:
            break
        negated = not negated
        head = strip_casts(reader, inner)
    return head, negated


def _is_false(reader: Reader, node: Node) -> bool:
    head = reader.head(node)
    return isinstance(head, Const) and head.value in (False, 0)


def _is_true(reader: Reader, node: Node) -> bool:
    head = reader.head(node)
    return isinstance(head, Const) and head.value is True
