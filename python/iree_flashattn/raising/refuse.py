"""How a rule says no while a candidate is being raised."""

from __future__ import annotations


class Refuse(Exception):
    """``rule`` cannot go on; ``subject`` names the op or value at fault.

    ``near`` is False where the candidate is no softmax at all (a gate, an activation): such are
    not worth a word in a report.
    """

    def __init__(self, rule: str, reason: str, subject: str = "", near: bool = True) -> None:
        super().__init__(reason)
        self.near = near
        self.rule = rule
        self.reason = reason
        self.subject = subject


def describe(reader, node) -> str:
    """A short name for an expression: its operation or the op that made the loaded value."""
    from .expr import Apply, Const, Load

    node = reader.head(node)
    if isinstance(node, Load):
        op = reader.producer(node.value)
        return op.name if op is not None else "an argument"
    if isinstance(node, Apply):
        return node.name
    if isinstance(node, Const):
        return str(node.value)
    return type(node).__name__.lower()
