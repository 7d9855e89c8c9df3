"""The condition of a variant: what the device has to answer for its kernel to be taken."""

from __future__ import annotations

from collections.abc import Sequence

from ..choosing.checks import Check


def condition(checks: Sequence[Check]) -> str:
    """``hal.executable.condition`` as text, nothing if there are no checks.

    True on devices that answer every check with one of the accepted values; a query that the
    device does not know answers no.
    """
    if not checks:
        return ""
    lines = ["%all0 = arith.constant true"]
    for i, (category, key, accepted) in enumerate(checks):
        lines.append(
            f"%ok{i}, %is{i} = hal.device.query<%device : !hal.device>"
            f' key("{category}" :: "{key}") : i1, i32'
        )
        found = ""
        for value in accepted:
            same = f"%same{i}_{value}"
            lines += [
                f"%wanted{i}_{value} = arith.constant {value} : i32",
                f"{same} = arith.cmpi eq, %is{i}, %wanted{i}_{value} : i32",
            ]
            if found:
                lines.append(f"%any{i}_{value} = arith.ori {found}, {same} : i1")
                same = f"%any{i}_{value}"
            found = same
        lines += [
            f"%yes{i} = arith.andi %ok{i}, {found} : i1",
            f"%all{i + 1} = arith.andi %all{i}, %yes{i} : i1",
        ]
    lines.append(f"hal.return %all{len(checks)} : i1")
    body = "\n    ".join(lines)
    return f"hal.executable.condition(%device: !hal.device) -> i1 {{\n    {body}\n  }}"
