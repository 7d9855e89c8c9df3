"""Where the dispatch goes, and the probabilities as a second result.

P is only needed outside when something else than the product with V reads it. Then the kernel
writes it too, provided that the tensor is dense over (batch, head, query, key).
"""

from __future__ import annotations

from iree.compiler import ir

from ..site import AttentionSite, View
from .assemble import Attempt
from .axes import Size, times
from .expr import Load
from .operands import Candidate
from .place import tensors_of
from .product import Product
from .reader import Reader
from .refuse import Refuse
from .roles import Roles, extent_of
from .views import view_of

RULE = "weights"


def place(reader: Reader, product: Product, target: ir.Value, attempt: Attempt) -> None:
    """Sets anchor, location and, where P is read elsewhere, the weights."""
    site = attempt.site
    users = reader.shared.index.users
    op = reader.producer(target)
    assert op is not None
    site.anchor = op
    site.location = str(op.location)
    trail = [reader.fresh(load) for load in product.softmax.trail]
    scaled = product.softmax.scaled
    path = {reader.producer(load.value) for load in (*scaled, *product.softmax.trail)}
    path.add(product.final)
    outside: Load | None = None
    if any(user not in path for load in scaled for user in users(load.value)) and trail:
        outside = trail[0]  # the scaled tensor stays and reads these
        path -= {reader.producer(load.value) for load in scaled[-1:]}
    for load in trail:  # outermost first: the last one found is the closest to the softmax
        assert isinstance(load, Load)
        if any(user not in path for user in users(load.value)):
            outside = load
    if outside is None:
        return
    site.weights = _dense(reader, outside, attempt.roles)
    site.anchor = _earliest(reader, outside.value, path, op, site)


def _dense(reader: Reader, load: Load, roles: Roles) -> View:
    groups = [roles.batch, roles.heads, roles.query, roles.key]
    view = view_of(reader, Candidate(load), groups, "any", offset=False)
    stride: Size = 1
    for position in (3, 2, 1, 0):
        if view is None or (groups[position] and view.strides[position] != stride):
            raise Refuse(
                RULE,
                "the probabilities are read elsewhere and are not laid out as"
                " (batch, head, query, key)",
                reader.producer(load.value).name,  # type: ignore[union-attr]
            )
        stride = times(stride, extent_of(groups[position]))
    assert view is not None
    return view


def _earliest(
    reader: Reader, value: ir.Value, path: set, op: ir.Operation, site: AttentionSite
) -> ir.Operation:
    """The first reader of P or of O: the dispatch stands before it and behind its operands."""
    first = op
    for user in reader.shared.index.users(value):
        if user in path:
            continue
        if user.block != op.block:
            raise Refuse(RULE, "the probabilities are read in another region", user.name)
        if user.is_before_in_block(first):
            first = user
    for tensor in tensors_of(site):
        source = reader.producer(tensor)
        if tensor == value:
            raise Refuse(RULE, "an operand is made of the probabilities", source.name)
        if source is not None and source.block == op.block and not source.is_before_in_block(first):
            raise Refuse(
                RULE, "the probabilities are read before all operands are there", first.name
            )
    return first
