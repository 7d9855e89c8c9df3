"""iree_linalg_ext.attention and online_attention: the op's own meaning, region and mask included.

The region sees plain scaled scores, as PyTorch defines score modifications. A boolean mask keeps
where it is true; any other mask is added, after the region.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from .axes import Lin
from .expr import Apply, Const, Load, Node, Scalar
from .fills import add_term, mask_with
from .quotient import Softmax
from .reader import Reader, image, invert_map
from .refuse import Refuse
from .region import Unsupported, compile_block, outer_scalar
from .score import Axes, Score
from .scores import parse_score, scale_by
from .sizes import result_number
from .unify import atoms_of

RULE = "attention op"
NAMES = ("iree_linalg_ext.attention", "iree_linalg_ext.online_attention")


@dataclass
class Product:
    """What one output element is made of."""

    softmax: Softmax
    score: Score
    q: Node
    k: Node
    v: Node
    inner: list[Lin]  # the axes that Q·K sums over
    final: ir.Operation | None = None  # the op that multiplies with V


def read_attention(reader: Reader, op: ir.Operation, load: Load) -> Product:
    """The parts of an attention op, for an element of its first result."""
    maps = reader.shared.parsed.maps(op.attributes["indexing_maps"])
    if maps is None:
        raise Refuse(RULE, "the indexing maps are not linear", op.name)
    online = op.name.endswith("online_attention")
    operands = list(op.operands)
    inputs = operands[: len(operands) - (3 if online else 1)]
    number = result_number(op, load.value)
    if number != 0:
        raise Refuse(RULE, "the row maximum or sum is used by itself", op.name)
    count = 1 + max(d for m in maps for terms, _ in m for d in terms)
    coords = tuple(reader.space.resolve(c) for c in load.coords)
    loops = invert_map(maps[len(inputs)], coords, count)
    if loops is None:
        raise Refuse(RULE, "the output map is no projection of the loops", op.name)
    extents = reader.loop_extents(inputs, maps, count)
    q_loops, k_loops, v_loops = ({d for terms, _ in maps[i] for d in terms} for i in range(3))
    inner, keys = [], []
    for d in range(count):
        if loops[d] is not None:
            continue
        extent = extents[d]
        if extent is None:
            raise Refuse(RULE, "a loop is bounded by no operand", op.name)
        loops[d] = reader.space.axis(extent)
        if d in v_loops:
            keys.append(loops[d])
        elif d in q_loops and d in k_loops:
            inner.append(loops[d])
        else:
            raise Refuse(RULE, "a loop belongs to neither the keys nor the head dim", op.name)
    known = [c for c in loops if c is not None]
    q, k, v = (reader.load(inputs[i], image(maps[i], known)) for i in range(3))
    dot = Apply("scaled_dot", (q, k), q.dtype)
    score = _score(reader, op, dot, known, keys)
    scale = outer_scalar(inputs[3], reader.sizes)
    _apply_scale(score, scale)
    if len(inputs) > 4:
        mask = reader.load(inputs[4], image(maps[4], known))
        if mask.dtype == "i1":
            mask_with(reader, score, mask, Const(float("-inf"), "f32"))
        else:
            add_term(reader, score, mask)
    spelling = op.name.partition(".")[2]
    softmax = Softmax([], keys, zero_rows=True, spelling=spelling)
    return Product(softmax, score, q, k, v, inner, op)


def _score(
    reader: Reader, op: ir.Operation, dot: Apply, loops: list[Lin], keys: list[Lin]
) -> Score:
    block = op.regions[0].blocks[0]
    try:
        program = compile_block(op, reader.shared.index, reader.sizes)
    except Unsupported as unsupported:
        raise Refuse(RULE, f"the score region has {unsupported}", str(unsupported)) from None
    if len(block.arguments) != 1:
        raise Refuse(RULE, "the score region takes more than the score", op.name)
    node = program.run([dot], tuple(loops))[0]
    if node == dot:
        return Score(dot)
    return parse_score(reader, node, Axes(atoms_of(reader, keys)))


def _apply_scale(score: Score, scale: Node) -> None:
    """The scale multiplies the product before the region sees it."""
    if isinstance(scale, Const):
        value = float(scale.value)
        if score.cap is None and not score.bias and not score.keep and not score.after:
            scale_by(score, value)
        else:
            score.scale *= value
    elif isinstance(scale, Scalar):
        score.factors.append(scale)
    else:
        raise Refuse(RULE, "the scale is no float", type(scale).__name__)
