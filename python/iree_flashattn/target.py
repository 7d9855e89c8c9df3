"""What the module is compiled for: its devices and the executable targets behind a site.

A device global holds ``#hal.device.target<"local", [#hal.executable.target<"llvm-cpu",
"embedded-elf-x86_64", {…}>, …]>``, or a ``select``/``fallback`` of several. A site that names no
device may run on any of them, so every target behind it has to be served.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from iree.compiler import ir

Backend = Literal["cpu", "cuda", "spirv", "other"]

_TARGET = "#hal.executable.target<"
_SYMBOL = re.compile(r'@([A-Za-z_][\w$.-]*|"(?:[^"\\]|\\.)*")')
_BACKENDS: dict[str, Backend] = {"llvm-cpu": "cpu", "cuda": "cuda", "vulkan-spirv": "spirv"}
_ELF_ARCH = {"x86_64": "x86_64", "arm_64": "aarch64", "riscv_64": "riscv64"}


@dataclass(frozen=True)
class Target:
    """One executable target. ``attribute`` is its exact text, as a variant has to repeat it."""

    backend: Backend
    compiler: str  # IREE's own name of the back end, e.g. "vmvx"
    format: str  # e.g. "embedded-elf-x86_64"
    attribute: str
    arch: str = ""
    features: frozenset[str] = frozenset()
    cpu: str = ""  # LLVM's name of the processor, empty where the target does not tell
    sm: int = 0  # CUDA compute capability times ten
    config: str = ""  # the target's dictionary as text

    def __str__(self) -> str:
        detail = f"sm_{self.sm}" if self.backend == "cuda" else self.arch
        return f"{self.compiler} {self.format}" + (f" ({detail})" if detail else "")


def enabled_features(text: str) -> frozenset[str]:
    """``+a,-b,+b`` -> {a, b}: the last word on a feature wins."""
    state: dict[str, bool] = {}
    for item in filter(None, text.split(",")):
        state[item[1:]] = item[0] == "+"
    return frozenset(name for name, on in state.items() if on)


@cache
def parse_target(attribute: str) -> Target:
    """From the text of a ``#hal.executable.target`` attribute."""
    names = re.match(
        r'#hal\.executable\.target<"([^"]*)",\s*"([^"]*)"(?:,\s*(\{.*\}))?>$', attribute, re.DOTALL
    )
    if names is None:
        return Target("other", "unknown", "unknown", attribute)
    compiler, fmt, config = names[1], names[2], names[3] or ""
    backend = _BACKENDS.get(compiler, "other")
    arch, features, cpu, sm = "", frozenset(), "", 0
    if backend == "cpu":
        arch = _ELF_ARCH.get(fmt.removeprefix("embedded-elf-"), "")
        found = re.search(r'\bcpu_features = "([^"]*)"', config)
        features = enabled_features(found[1]) if found else frozenset()
        found = re.search(r'\bcpu = "([^"]*)"', config)
        cpu = found[1] if found else ""
    elif backend == "cuda":
        found = re.search(r'\barch = "sm_(\d+)', config)
        sm = int(found[1]) if found else 0
        arch = f"sm_{sm}"
    elif backend == "spirv":
        found = re.search(r'\barch = "([^"]*)"', config)
        arch = found[1] if found else ""
    return Target(backend, compiler, fmt, attribute, arch, features, cpu, sm, config)


def executable_targets(device_text: str) -> list[str]:
    """The texts of all executable targets inside a device attribute, in order."""
    found = []
    start = device_text.find(_TARGET)
    while start >= 0:
        end = _closing(device_text, start + len(_TARGET))
        found.append(device_text[start:end])
        start = device_text.find(_TARGET, end)
    return found


def _closing(text: str, position: int) -> int:
    """The index after the ``>`` that closes the ``<`` right before ``position``."""
    depth, in_string = 1, False
    while position < len(text):
        char = text[position]
        if in_string:
            if char == "\\":
                position += 1
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char == "<":
            depth += 1
        elif char == ">" and text[position - 1] != "-":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    raise ValueError(f"unbalanced attribute: {text[:80]}…")


class Devices:
    """The device globals of a module, looked up by a site's affinity."""

    def __init__(self, module: ir.Module) -> None:
        self._module = module
        self._texts: dict[str, str] = {}
        self._targets: dict[tuple[str, ...], list[Target]] = {}
        for op in module.body.operations:
            if op.operation.name != "util.global":
                continue
            if str(op.attributes["type"]) == "!hal.device" and "initial_value" in op.attributes:
                name = str(op.attributes["sym_name"]).strip('"')
                self._texts[name] = str(op.attributes["initial_value"])

    @cached_property
    def backends(self) -> frozenset[str]:
        """Of the devices that the module uses: the default one alone where nothing is placed."""
        names = self._where_unplaced_ops_run
        texts = [text for name in names for text in self._of_device(name, frozenset())]
        return frozenset(parse_target(text).backend for text in texts)

    def targets_at(self, op: ir.Operation) -> list[Target]:
        """Every target the op may run on, in order, without repetition; empty if none is known."""
        affinity = affinity_of(op)
        names = _symbols(str(affinity)) if affinity is not None else []
        if not names:
            names = self._where_unplaced_ops_run
        key = tuple(names)
        if key not in self._targets:
            texts = [text for name in names for text in self._of_device(name, frozenset())]
            self._targets[key] = [parse_target(text) for text in dict.fromkeys(texts)]
        return self._targets[key]

    @cached_property
    def _where_unplaced_ops_run(self) -> list[str]:
        """The default device, or any device where operands may pull the op to another one."""
        default = self._module.operation.attributes
        several = len(self._texts) > 1 and "stream.affinity.default" in default
        if several and not _mentions_placement(self._module.operation):
            return _symbols(str(default["stream.affinity.default"]))
        return list(self._texts)

    def _of_device(self, name: str, seen: frozenset[str]) -> list[str]:
        if name in seen or name not in self._texts:
            return []
        text = self._texts[name]
        found = executable_targets(text)
        for fallback in re.findall(r"#hal\.device\.fallback<@([\w$.-]+)>", text):
            found += self._of_device(fallback, seen | {name})
        return found


def _symbols(text: str) -> list[str]:
    return [name.strip('"') for name in _SYMBOL.findall(text)]


def affinity_of(op: ir.Operation) -> ir.Attribute | None:
    """The explicit ``stream.affinity`` of the op or of the nearest op around it."""
    current = op
    while current is not None and current.name != "builtin.module":
        if "stream.affinity" in current.attributes:
            return current.attributes["stream.affinity"]
        current = current.parent.operation if current.parent is not None else None
    return None


def _mentions_placement(root: ir.Operation) -> bool:
    """Whether any op below the module is placed, or moves a tensor between devices."""
    from iree.compiler import ir

    found = False

    def visit(op: ir.Operation) -> ir.WalkResult:
        nonlocal found
        if op != root and (
            op.name == "flow.tensor.transfer"
            or any("affinity" in name for name in op.attributes)
            or (op.name == "util.func" and "iree.abi.affinity" in str(op.attributes))
        ):
            found = True
            return ir.WalkResult.INTERRUPT
        return ir.WalkResult.ADVANCE

    root.walk(visit)
    return found
