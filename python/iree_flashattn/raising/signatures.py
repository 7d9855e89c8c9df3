"""What an op is, without the values that it reads: equal numbers for equal ops."""

from __future__ import annotations

from iree.compiler import ir

from .index import Index, is_named


class Signatures:
    """Numbers for the ops of one module: name, attributes, types and regions decide."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._numbers: dict[tuple, int] = {}
        self._of: dict[ir.Operation, int] = {}
        self._captured: dict[ir.Operation, list[ir.Value]] = {}

    def of(self, op: ir.Operation) -> int:
        known = self._of.get(op)
        if known is None:
            key = self._key(op)
            known = self._of[op] = self._numbers.setdefault(key, len(self._numbers))
        return known

    def captured(self, op: ir.Operation) -> list[ir.Value]:
        """The values from outside that the op's region reads, in order."""
        return self._captured.get(op, [])

    def _key(self, op: ir.Operation) -> tuple:
        attributes = tuple(op.attributes.items())
        types = tuple([result.type for result in op.results])
        key = (op.name, attributes, types, len(op.operands))
        if not len(op.regions) or is_named(op.name):
            return key
        body = self._body(op)
        return (*key, object() if body is None else body)  # (an object is equal to nothing else)

    def _body(self, op: ir.Operation) -> tuple | None:
        """The ops of the region; None where they cannot be told apart from others."""
        inner = self._index.body_if_known(op)
        blocks = op.regions[0].blocks
        if inner is None or len(op.regions) != 1 or len(blocks) != 1:
            return None
        places: dict[ir.Value, int] = {}
        for argument in blocks[0].arguments:
            places[argument] = len(places)
        captured: list[ir.Value] = []
        lines = []
        for step in inner:
            if len(step.regions):
                return None
            read = []
            for value in step.operands:
                place = places.get(value)
                if place is None:
                    place = places[value] = -1 - len(captured)
                    captured.append(value)
                read.append(place)
            results = step.results
            for result in results:
                places[result] = len(places)
            types = tuple([result.type for result in results])
            lines.append((step.name, tuple(step.attributes.items()), tuple(read), types))
        if captured:
            self._captured[op] = captured
        return tuple(lines)
