"""Layers that repeat: a candidate that has the surroundings of an earlier one, op for op.

Raising asks a module who makes a value, who reads it, whether an earlier site made it and whether a
logarithm stands over it; the rest follows from the ops themselves. A :class:`Trace` notes what was
asked about one candidate and the answers. Where another one gets the same answers, but for other
values in the places of the first one's, all that was concluded holds for it too: the site is copied
with its own values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from iree.compiler import ir

from ..extent import Extent
from ..refusal import Refusal
from ..site import AttentionSite, View
from .equalities import comparable
from .expr import Apply, Load, Node, Scalar
from .index import MADE, MADE_BY_A_SITE, UNDER_A_LOG, Trace
from .shared import Shared
from .signatures import Signatures
from .term import Term

Outcome = AttentionSite | Refusal | None
_VIEWS = ("q", "k", "v", "out", "mask", "bias", "sinks")
_KINDS = 4  # of layers that begin alike


@dataclass
class _Known:
    value: ir.Value
    trace: Trace
    outcome: Outcome
    target: ir.Value | None  # what the site's dispatch replaces
    equal: list[tuple[Extent, Extent]]  # before it is known which sizes can be compared


class _DifferentError(Exception):
    """The candidate is not like the earlier one."""


class Repeats:
    """Outcomes of raising for the candidates of one module."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.signatures = Signatures(shared.index)
        self._known: dict[int, list[_Known]] = {}

    def raised(
        self, value: ir.Value, raise_value: Callable[[ir.Value, Shared], Outcome]
    ) -> Outcome:
        """What ``raise_value`` says of the value."""
        index = self.shared.index
        op = index.maker(value)
        assert op is not None
        family = self._known.setdefault(self.signatures.of(op), [])
        for known in family:
            try:
                return _Match(self, known, value).outcome()
            except _DifferentError:
                continue
        index.trace = trace = Trace()
        try:
            outcome = raise_value(value, self.shared)
        finally:
            index.trace = None
        site = outcome if isinstance(outcome, AttentionSite) else None
        equal = [] if site is None else site.equal
        if len(family) < _KINDS and _only_from_answers(outcome):
            target = None if site is None else site.out.value
            family.append(_Known(value, trace, outcome, target, equal))
        if site is not None:
            return replace(site, equal=comparable(self.shared, site))
        return outcome


def _only_from_answers(outcome: Outcome) -> bool:
    """Whether nothing but the answers led to it: further results ask for the order of ops."""
    if isinstance(outcome, AttentionSite):
        return outcome.weights is None and outcome.lse is None
    return not isinstance(outcome, Refusal) or outcome.rule != "weights"


class _Match:
    """A candidate beside an earlier one. Raises :class:`_DifferentError`."""

    def __init__(self, repeats: Repeats, known: _Known, value: ir.Value) -> None:
        self.known = known
        self.value = value
        self.shared = repeats.shared
        self.signatures = repeats.signatures
        self.values: dict[ir.Value, ir.Value] = {}  # of the earlier candidate -> of this one
        self._taken: dict[ir.Value, ir.Value] = {}  # the other way round
        self._ops: dict[ir.Operation, ir.Operation] = {}
        index = self.shared.index
        self._pair(known.value, value)
        for kind, asked, answer in known.trace.asked:
            mine = self.values.get(asked)
            if mine is None:
                raise _DifferentError
            if kind == MADE:
                self._same_op(answer, index.maker(mine))
            elif kind == MADE_BY_A_SITE:
                if answer != (mine in self.shared.outputs):
                    raise _DifferentError
            elif kind == UNDER_A_LOG:
                if answer or self.shared.logs.get(mine):
                    raise _DifferentError
            else:
                ops = index.asked(kind, mine)
                if len(ops) != len(answer):
                    raise _DifferentError
                for a, b in zip(answer, ops, strict=True):
                    self._same_op(a, b)

    def _same_op(self, a: ir.Operation | None, b: ir.Operation | None) -> None:
        if a is None or b is None:
            if a is not b:
                raise _DifferentError
            return
        known = self._ops.get(a)
        if known is not None:
            if known != b:
                raise _DifferentError
            return
        if self.signatures.of(a) != self.signatures.of(b) or a.block != b.block:
            raise _DifferentError
        captured = zip(self.signatures.captured(a), self.signatures.captured(b), strict=True)
        if not all(x == y or self._same_constant(x, y) for x, y in captured):
            raise _DifferentError
        self._ops[a] = b
        if a == b and not len(a.results):
            return  # one that only reads, as a return does: of both candidates
        for x, y in zip(a.operands, b.operands, strict=True):
            self._pair(x, y)
        for x, y in zip(a.results, b.results, strict=True):
            self._pair(x, y)

    def _pair(self, a: ir.Value, b: ir.Value) -> None:
        known = self.values.get(a)
        if known is None and b not in self._taken:
            if a != b and not self._alike(a, b):
                raise _DifferentError
            self.values[a] = b
            self._taken[b] = a
        elif known is None or known != b:
            raise _DifferentError

    def _alike(self, a: ir.Value, b: ir.Value) -> bool:
        """Whether the one value may stand for the other, as far as it is not looked into."""
        kind, sizes = a.type, self.shared.sizes
        if kind != b.type:
            return False
        if isinstance(kind, ir.RankedTensorType):
            return kind.has_static_shape or sizes.shape(a) == sizes.shape(b)
        if isinstance(kind, ir.IndexType):
            return sizes.of_index(a) == sizes.of_index(b)
        return self._same_constant(a, b)

    def _same_constant(self, a: ir.Value, b: ir.Value) -> bool:
        one, other = self.shared.index.maker(a), self.shared.index.maker(b)
        if one is None or other is None or one.name != "arith.constant":
            return False
        return self.signatures.of(one) == self.signatures.of(other)

    # -- the outcome, in this one's values -------------------------------------------------------
    def outcome(self) -> Outcome:
        earlier = self.known.outcome
        if earlier is None:
            return None
        if isinstance(earlier, Refusal):
            return replace(earlier, location=str(self.shared.index.maker(self.value).location))
        anchor = self.shared.index.maker(self._mine(self.known.target))
        views = {name: self._view(getattr(earlier, name)) for name in _VIEWS}
        scale = earlier.scale
        site = replace(
            earlier,
            anchor=anchor,
            location=str(anchor.location),
            scale=self._mine(scale) if isinstance(scale, ir.Value) else scale,
            equal=self.known.equal,
            **views,
        )
        site.equal = comparable(self.shared, site)
        return site

    def _mine(self, value: ir.Value) -> ir.Value:
        if value not in self.values:
            raise _DifferentError
        return self.values[value]

    def _view(self, view: View | None) -> View | None:
        if view is None:
            return None
        if not isinstance(view.value, Term):
            return replace(view, value=self._mine(view.value))
        term = view.value
        return replace(view, value=replace(term, node=self._node(term.node)))

    def _node(self, node: Node) -> Node:
        if isinstance(node, Load):
            return Load(self._mine(node.value), node.coords, node.dtype)
        if isinstance(node, Apply):
            return Apply(node.name, tuple(self._node(a) for a in node.args), node.dtype)
        if isinstance(node, Scalar):
            return Scalar(self._mine(node.value), node.dtype)
        return node
