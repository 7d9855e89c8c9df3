"""The support matrix, generated from the kernel tables.

``python -m iree_flashattn.matrix README.md`` rewrites what stands between the file's two markers.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import catalog
from .resources import MissingResourceError

BEGIN, END = "<!-- support-matrix:begin -->", "<!-- support-matrix:end -->"
HEADER = ("back end", "kernels", "runs on", "types", "head dims", "roles", "features it lacks")
_NAMES = {"cpu": "CPU", "cuda": "CUDA", "spirv": "Vulkan"}


def matrix_rows() -> list[tuple[str, ...]]:
    """The header and one line for each family of kernels, in the tables' order."""
    found = [HEADER]
    for backend in catalog.BACKENDS:
        try:
            kernels = catalog.kernels(backend)
        except MissingResourceError:
            continue
        families: dict[tuple, list[catalog.Kernel]] = {}
        for kernel in kernels:
            if kernel.role != "combine":
                key = (family(kernel), _target(kernel), _dims(kernel), kernel.features)
                families.setdefault(key, []).append(kernel)
        for (variant, target, dims, features), rows in families.items():
            types = ", ".join(dict.fromkeys(row.element for row in rows))
            roles = ", ".join(dict.fromkeys(_ROLES[row.role] for row in rows))
            lacks = ", ".join(sorted(catalog.FEATURES - features)) or "none"
            found.append((_NAMES[backend], variant, target, types, dims, roles, lacks))
    return found


_ROLES = {"forward": "whole", "partial": "split keys"}


def family(kernel: catalog.Kernel) -> str:
    """The name without role and element type: what is left is the variant."""
    return kernel.name.removeprefix(f"fa_{kernel.role}_{kernel.element}_")


def _target(kernel: catalog.Kernel) -> str:
    condition = kernel.target
    if kernel.backend == "cpu":
        where = " or ".join(condition.get("cpus", [condition["arch"]]))
        link = ["the runtime extension"] if kernel.extra.get("link") == "plugin" else []
        return ", ".join([where, *condition.get("features", ()), *link])
    if kernel.backend == "cuda":
        return f"sm_{condition['sm']}" + ("" if condition.get("only") else " and newer")
    asked = condition.get("device", ())
    parts = []
    if any("cooperative_matrix" in name for name in asked):
        parts.append("cooperative matrices")
    elif any("8bit" in name for name in asked):
        parts.append("8- and 16-bit storage")
    if "shader_int64" in asked:
        parts.append("64-bit integers")
    subgroup = condition.get("subgroup")
    if subgroup:
        sizes = subgroup if isinstance(subgroup, list | tuple) else [subgroup]
        parts.append("subgroups of " + ", ".join(str(size) for size in sizes))
    return ", ".join(parts) or "any Vulkan 1.1 device"


def _dims(kernel: catalog.Kernel) -> str:
    dims = kernel.head_dim
    text = ", ".join(str(d) for d in dims.dk)
    if dims.max is not None:
        text = f"{text} up to {dims.max}".strip()
    if dims.multiple_of > 1:
        text += f", multiples of {dims.multiple_of}"
    return text


def markdown() -> str:
    header, *rows = matrix_rows()
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def updated(text: str) -> str:
    """The document with the current matrix. Raises ValueError if a marker is missing."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"the document has no {BEGIN} … {END}")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n{markdown()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    for name in arguments:
        path = Path(name)
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
