"""Random programs through iree-compile, with the flag and without, and the runtime.

Many programs are functions of one module. Where a module does not compile, parts of it are tried
until the program that is at fault stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fuzzing.cases import Case
from fuzzing.writer import NUMPY
from iree_flashattn.bench import running
from iree_flashattn.compiling import LOCAL, Compiled, CompileError, compile_module
from support import devices

# What takes least time to compile, with the flag and without: a worker has one core, nothing is
# computed ahead or vectorised, and neighbouring operations share dispatches.
QUICK = (
    *LOCAL,
    "--mlir-disable-threading",
    "--iree-llvmcpu-debug-symbols=false",
    "--iree-opt-level=O2",
    "--iree-opt-const-eval=false",
    "--iree-opt-const-expr-hoisting=false",
    "--iree-dispatch-creation-enable-aggressive-fusion",
    "--iree-dispatch-creation-fuse-multi-use",
    "--iree-hal-memoization=false",
    "--iree-hal-indirect-command-buffers=false",
    "--iree-llvmcpu-disable-distribution",
    "--iree-llvmcpu-loop-unrolling=false",
    "--iree-llvmcpu-loop-vectorization=false",
    "--iree-llvmcpu-slp-vectorization=false",
)
# The IR of stock code alone is not verified after each pass, which takes a quarter of the time.
QUICK_STOCK = (*QUICK, "--verify=false")
# What a user's own flags make of it is compiled now and then.
USUAL = (*LOCAL, "--mlir-disable-threading")


@dataclass(frozen=True)
class Way:
    """How programs are compiled, and the device that they run on."""

    flags: tuple[str, ...]
    stock: tuple[str, ...]  # without the flag
    device: str = "local-task"


QUICKLY, USUALLY = Way(QUICK, QUICK_STOCK), Way(USUAL, USUAL)


def way_of(kind: str, flags: tuple[str, ...] = ()) -> Way:
    """Of a batch's kind: "usual", "vulkan", "cuda", otherwise the quickest way on the CPU."""
    for device in ("vulkan", "cuda"):
        if device in kind.split():
            every = (f"--iree-hal-target-device={device}", "--mlir-disable-threading", *flags)
            return Way(every, every, device)
    return USUALLY if "usual" in kind.split() else QUICKLY


# Relative to the largest element. Above the second number an error is no rounding.
ROUNDING = {"f32": (2e-5, 1e-3), "f16": (2e-3, 2e-2), "bf16": (1.6e-2, 1e-1)}

Arrays = list[np.ndarray]


@dataclass
class Side:
    """What one way of compiling made of the programs, by name."""

    results: dict[str, Arrays] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)  # programs that do not compile or run
    matched: dict[str, int] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)

    def take(self, other: Side) -> None:
        """The other's programs, in place of what was known about them."""
        for name in (*other.results, *other.errors):
            for known in (self.results, self.errors, self.matched, self.refused):
                known.pop(name, None)
        for field_name, found in vars(other).items():
            getattr(self, field_name).update(found)


Sides = tuple[Side, Side]  # with the flag, and without


def module_of(cases: list[Case]) -> str:
    return "module {\n" + "".join(c.net.function(c.results) for c in cases) + "}\n"


def both_ways(cases: list[Case], sites: Mapping[str, int], way: Way = QUICKLY) -> Sides:
    """The programs compiled with the flag and without. ``sites``: how many each has, by name.

    A module in which nothing is substituted is not even written anew: the flag leaves the stock
    compilation that it is. So programs without a site make a module that is compiled once.
    """
    attention = [c for c in cases if sites[c.net.name]]
    others = [c for c in cases if not sites[c.net.name]]
    ours = with_flag(attention, way)
    alone = with_flag(others, Way(way.stock, way.stock, way.device))
    if way.device == "local-task":
        again = attention
    else:  # what stock compiles for a GPU is often wrong: asked only where NumPy disagrees
        ours.take(alone)
        alone = Side()
        again = [c for c in cases if not _is_right(c, ours.results.get(c.net.name))]
    again += others if alone.matched else [c for c in others if c.net.name in alone.errors]
    stock = without_flag(again, way)
    for name, result in alone.results.items():
        stock.results.setdefault(name, result)
    ours.take(alone)
    if way == QUICKLY:
        # What stock cannot compile so quickly is compiled as a user would: -O2 leaves a call of
        # fmaxf to the linker for softmaxes in f16 (seed 320), and divides by zero in the compiler
        # for seed 100389.
        # For what is miscomputed so quickly the same goes (seed 62002757: two roundings of one row
        # of -1e9).
        failed = [c for c in cases if c.net.name in stock.errors]
        stock.take(without_flag(failed + _far_off(cases, ours, stock), USUALLY))
        ours.take(with_flag([c for c in failed if c.net.name in ours.errors], USUALLY))
    return ours, stock


def _far_off(cases: list[Case], ours: Side, stock: Side) -> list[Case]:
    """Where the results with the flag are wrong, and those without as well, by other numbers."""
    return [
        case
        for case in cases
        if (got := ours.results.get(case.net.name)) is not None
        and (usual := stock.results.get(case.net.name)) is not None
        and is_miscomputed(case, usual)
        and difference(case, got, usual)
    ]


def _is_right(case: Case, got: Arrays | None) -> bool:
    return got is not None and not difference(case, got, None)


def with_flag(cases: list[Case], way: Way = QUICKLY) -> Side:
    side = Side()

    def make(text: str) -> Compiled:
        return compile_module(text, way.flags, options={"IREE_FLASHATTN_GATE": "off"})

    _compile_and_run(cases, make, way.device, side)
    return side


def without_flag(cases: list[Case], way: Way = QUICKLY) -> Side:
    side = Side()
    make = partial(compile_module, flags=way.stock, plugin=False)
    _compile_and_run(cases, make, way.device, side)
    return side


def _compile_and_run(
    cases: list[Case], make: Callable[[str], Compiled], device: str, side: Side
) -> None:
    if not cases:
        return
    text = module_of(cases)
    try:
        done = make(text)
    except CompileError as error:
        if len(cases) == 1:
            side.errors[cases[0].net.name] = str(error)[:2000]
            return
        for part in _parts(cases, text, str(error)):
            _compile_and_run(part, make, device, side)
        return
    _attribute(done, text, side)
    if device == "local-task":
        loaded = running.load_all(done.vmfb, workers=1)
    else:
        loaded = devices.load_all(done.vmfb, device)
    for case in cases:
        name = case.net.name
        try:
            side.results[name] = _call(loaded[name], case, device)
        except Exception as error:  # the runtime has one kind of error for everything
            side.errors[name] = f"run: {error}"


def _parts(cases: list[Case], text: str, error: str) -> list[list[Case]]:
    """The programs that the error names, by a dispatch or a line, and the rest; else halves."""
    found = set(re.findall(r"\b(case\d+)_dispatch", error))
    names = _names_of_lines(text)
    lines = [int(line) for line in re.findall(r"module\.mlir:(\d+):\d+", error)]
    found |= {names[line] for line in lines if line < len(names)}
    named = [c for c in cases if c.net.name in found]
    if 0 < len(named) < len(cases):
        return [named, [c for c in cases if c.net.name not in found]]
    half = len(cases) // 2
    return [cases[:half], cases[half:]]


def _names_of_lines(text: str) -> list[str]:
    """The function that each line is in; lines count from 1."""
    names, current = [""], ""
    for line in text.splitlines():
        if found := re.match(r"\s*func\.func @(\w+)", line):
            current = found[1]
        names.append(current)
    return names


def _attribute(done: Compiled, text: str, side: Side) -> None:
    """Which function each site of the report is in, by its line."""
    names = _names_of_lines(text)
    for site in done.sites:
        line = re.search(r":(\d+):\d+", site["location"])
        name = names[int(line[1])] if line else ""
        if site["matched"]:
            side.matched[name] = side.matched.get(name, 0) + 1
        else:
            side.refused.setdefault(name, []).append(f"{site['rule']}: {site['reason']}")


def _call(function: Callable, case: Case, device: str) -> Arrays:
    inputs = [
        int(x.array) if x.dtype == "index" else x.array.astype(NUMPY[x.dtype])
        for x in case.net.inputs
    ]
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    arrays = [_to_host(output, device) for output in outputs]
    return [_to_float(a, v.dtype) for a, v in zip(arrays, case.results, strict=True)]


def _to_host(output: Any, device: str) -> np.ndarray:
    if device == "local-task":
        return np.asarray(output.to_host())
    view = output._buffer_view
    raw = devices.download(devices.configuration(device).device, view, output.dtype)
    return raw.reshape(view.shape)


def _to_float(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bf16" and array.dtype != NUMPY["bf16"]:
        array = array.view(NUMPY["bf16"])
    return array.astype(np.float64)


def difference(case: Case, got: Arrays, stock: Arrays | None) -> str:
    """What is wrong with the results; the empty string where nothing is.

    NumPy's float64 decides. Where f32 or a narrower type overflows and float64 does not, so that
    stock and NumPy are not finite in the same places, nothing is asked. Nor is it where stock
    miscomputes what is left to it, so that both are wrong by the same numbers.
    """
    for i, value in enumerate(got):
        wanted = case.results[i].array
        usual = wanted if stock is None else stock[i]
        if value.shape != wanted.shape:
            return f"result {i}: shape {value.shape}, not {wanted.shape}"
        known = np.isfinite(wanted) == np.isfinite(usual)
        if (np.isfinite(value) != np.isfinite(wanted))[known].any():
            return f"result {i}: finite in other places than stock and NumPy"
        error = relative_error(value, wanted)
        small, large = ROUNDING[case.element]
        if relative_error(usual, wanted) > large and relative_error(value, usual) <= small:
            continue
        # Scores that lose digits beside a mask of -1e4, say, lose them on either side.
        limit = small + 2 * min(max(relative_error(usual, wanted), case.net.lost), large)
        if error > limit:
            return f"result {i}: error {error:.2g}, stock {relative_error(usual, wanted):.2g}"
    return ""


def relative_error(value: np.ndarray, wanted: np.ndarray) -> float:
    both = np.isfinite(value) & np.isfinite(wanted)
    if not both.any():
        return 0.0
    scale = max(1.0, float(np.abs(wanted[both]).max()))
    return float(np.abs(value[both] - wanted[both]).max()) / scale


def is_miscomputed(case: Case, stock: Arrays) -> bool:
    large = ROUNDING[case.element][1]
    pairs = zip(stock, case.results, strict=True)
    return any(relative_error(value, wanted.array) > large for value, wanted in pairs)
