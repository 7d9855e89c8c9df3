"""What a linalg op computes: loops, index maps and a scalar body, the same for named and generic.

``LinalgOp`` is parsed once per op. Named ops that survive to the end of preprocessing are given
their maps here; everything else that has maps and a region is read from its attributes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from iree.compiler import ir

from .sizes import segments

# One result of an index map: (loop -> coefficient, constant); None where it is not linear.
MapResult = tuple[dict[int, int], int]
Map = tuple[MapResult, ...]

NAMED_CONTRACTIONS: dict[str, tuple[str, str, str, str]] = {
    # loops, lhs, rhs, out; k is the reduced one
    "linalg.matmul": ("mnk", "mk", "kn", "mn"),
    "linalg.batch_matmul": ("bmnk", "bmk", "bkn", "bmn"),
    "linalg.matvec": ("mk", "mk", "k", "m"),
    "linalg.vecmat": ("nk", "k", "kn", "n"),
    "linalg.batch_matvec": ("bmk", "bmk", "bk", "bm"),
    "linalg.batch_vecmat": ("bnk", "bk", "bkn", "bn"),
    "linalg.dot": ("k", "k", "k", ""),
    "linalg.batch_reduce_matmul": ("bmnk", "bmk", "bkn", "mn"),
}
ELEMENTWISE_KINDS = {
    "exp": ("exp", 1), "log": ("log", 1), "abs": ("absf", 1), "negf": ("negf", 1),
    "reciprocal": ("reciprocal", 1), "square": ("square", 1), "sqrt": ("sqrt", 1),
    "rsqrt": ("rsqrt", 1), "tanh": ("tanh", 1), "erf": ("erf", 1),
    "add": ("addf", 2), "sub": ("subf", 2), "mul": ("mulf", 2), "div": ("divf", 2),
    "max_signed": ("maximumf", 2), "min_signed": ("minimumf", 2), "select": ("select", 3),
}  # fmt: skip


@dataclass
class LinalgOp:
    op: ir.Operation
    ins: list[ir.Value]
    outs: list[ir.Value]
    maps: list[Map]  # ins, then outs
    loops: int
    reduced: frozenset[int]
    body: ir.Block | None
    kind: str | None = None  # "product" (named contraction), or the scalar op of linalg.elementwise

    @property
    def out_maps(self) -> list[Map]:
        return self.maps[len(self.ins) :]


@lru_cache(maxsize=4096)
def _letters(loops: str, text: str) -> Map:
    return tuple(({loops.index(c): 1}, 0) for c in text)


_KIND = re.compile("<(parallel|reduction|window)>")


class Parsed:
    """Attributes that were parsed. Ops share them, and they keep their context alive, so this
    belongs to one module."""

    def __init__(self) -> None:
        self._maps: dict[ir.Attribute, list[Map] | None] = {}
        self._iterators: dict[ir.Attribute, tuple[str, ...]] = {}

    def maps(self, attribute: ir.ArrayAttr) -> list[Map] | None:
        """Indexing maps; None where one is not linear."""
        if attribute not in self._maps:
            maps: list[Map] | None = []
            for a in attribute:
                results = [_parse_expr(e) for e in a.value.results]
                if any(r is None for r in results):
                    maps = None
                    break
                maps.append(tuple(results))  # type: ignore[arg-type]
            self._maps[attribute] = maps
        return self._maps[attribute]

    def iterators(self, attribute: ir.ArrayAttr) -> tuple[str, ...]:
        if attribute not in self._iterators:
            # iterating the array would import the whole dialect for its attributes
            self._iterators[attribute] = tuple(_KIND.findall(str(attribute)))
        return self._iterators[attribute]


def _parse_expr(e: ir.AffineExpr) -> MapResult | None:
    if isinstance(e, ir.AffineDimExpr):
        return {e.position: 1}, 0
    if isinstance(e, ir.AffineConstantExpr):
        return {}, e.value
    if isinstance(e, ir.AffineAddExpr):
        a, b = _parse_expr(e.lhs), _parse_expr(e.rhs)
        if a is None or b is None:
            return None
        terms = dict(a[0])
        for k, c in b[0].items():
            terms[k] = terms.get(k, 0) + c
        return terms, a[1] + b[1]
    if isinstance(e, ir.AffineMulExpr):
        a, b = _parse_expr(e.lhs), _parse_expr(e.rhs)
        if a is None or b is None:
            return None
        if b[0]:
            a, b = b, a
        return None if b[0] else ({k: c * b[1] for k, c in a[0].items()}, a[1] * b[1])
    return None


def parse_linalg(op: ir.Operation, parsed: Parsed) -> LinalgOp | None:
    """The structure of a linalg op on tensors, None where its maps are not linear or unknown."""
    name = op.name
    if name == "linalg.generic":
        ins, outs = segments(op)
        maps = parsed.maps(op.attributes["indexing_maps"])
        if maps is None:
            return None
        kinds = parsed.iterators(op.attributes["iterator_types"])
        reduced = frozenset(i for i, k in enumerate(kinds) if k == "reduction")
        return LinalgOp(op, ins, outs, maps, len(kinds), reduced, op.regions[0].blocks[0])
    if name in NAMED_CONTRACTIONS:
        loops, lhs, rhs, out = NAMED_CONTRACTIONS[name]
        ins, outs = segments(op)
        maps: list[Map] | None = [_letters(loops, t) for t in (lhs, rhs, out)]
        if "indexing_maps" in op.attributes:
            maps = parsed.maps(op.attributes["indexing_maps"])
        if maps is None:
            return None
        if "cast" in op.attributes and "unsigned" in str(op.attributes["cast"]):
            return None
        reduced = frozenset(i for i, c in enumerate(loops) if c not in out)
        return LinalgOp(op, ins, outs, maps, len(loops), reduced, None, "product")
    if name == "linalg.contract":
        ins, outs = segments(op)
        maps = parsed.maps(op.attributes["indexing_maps"])
        if maps is None:
            return None
        used = {d for m in maps for r in m for d in r[0]}
        kept = {d for r in maps[-1] for d in r[0]}
        reduced = frozenset(used - kept)
        return LinalgOp(op, ins, outs, maps, len(used), reduced, None, "product")
    if name in ("linalg.transpose", "linalg.broadcast"):
        source, init = op.operands[0], op.operands[1]
        rank = init.type.rank
        if name == "linalg.transpose":
            permutation = list(op.attributes["permutation"])
            source_map: list[MapResult] = [({}, 0)] * rank
            for out_dim, in_dim in enumerate(permutation):
                source_map[in_dim] = ({out_dim: 1}, 0)
        else:
            added = set(op.attributes["dimensions"])
            source_map = [({d: 1}, 0) for d in range(rank) if d not in added]
        identity = tuple(({d: 1}, 0) for d in range(rank))
        return LinalgOp(
            op, [source], [init], [tuple(source_map), identity], rank, frozenset(), None, "copy"
        )
    if name == "linalg.elementwise":
        ins, outs = segments(op)
        kind = str(op.attributes["kind"]).rsplit("<", 1)[-1].rstrip(">")
        entry = ELEMENTWISE_KINDS.get(kind)
        rank = outs[0].type.rank
        identity = tuple(({d: 1}, 0) for d in range(rank))
        maps = [identity] * (len(ins) + 1)
        if "indexing_maps" in op.attributes:
            maps = parsed.maps(op.attributes["indexing_maps"])
        if entry is None or maps is None or entry[1] != len(ins):
            return None
        return LinalgOp(op, ins, outs, maps, rank, frozenset(), None, entry[0])
    if name in ("linalg.reduce", "linalg.map"):
        operands = list(op.operands)
        count = len(op.results)
        ins, outs = operands[: len(operands) - count], operands[len(operands) - count :]
        rank = (ins or outs)[0].type.rank
        identity = tuple(({d: 1}, 0) for d in range(rank))
        gone = frozenset(op.attributes["dimensions"]) if name == "linalg.reduce" else frozenset()
        out_map = tuple(({d: 1}, 0) for d in range(rank) if d not in gone)
        maps = [identity] * len(ins) + [out_map] * len(outs)
        return LinalgOp(op, ins, outs, maps, rank, gone, op.regions[0].blocks[0])
    return None
