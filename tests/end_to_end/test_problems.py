"""The shared problem list through the compiler: both MLIR spellings, all element types."""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from iree_flashattn import operands
from iree_flashattn.bench import modules, running
from iree_flashattn.compiling import LOCAL, compile_module
from iree_flashattn.operands import Operands, from_storage
from iree_flashattn.problems import Problem, find, small
from support.accuracy import assert_accurate, sdpa_error

SPELLINGS = {"fused": modules.fused, "decomposed": modules.decomposed}
ELEMENTS = ("f32", "f16", "bf16")
# What has nothing left of the source when the pattern sees it: a result without elements is
# folded away by the compiler.
VANISHES = {("no_queries", "fused"), ("no_queries", "decomposed")}
PROBLEMS = [p for p in small() if modules.servable(p)]


@pytest.fixture(scope="module", params=ELEMENTS)
def compiled(request: pytest.FixtureRequest) -> tuple[str, dict[str, Callable], list[dict]]:
    """One module with a function for each problem and spelling: compiling takes the time."""
    element = request.param
    text = "".join(
        make(p.with_element(element), f"{spelling}_{p.name}")
        for p in PROBLEMS
        for spelling, make in SPELLINGS.items()
    )
    done = compile_module(text, options={"IREE_FLASHATTN_GATE": "off"})
    return element, running.load_all(done.vmfb), done.sites


def arguments(made: Operands) -> list[NDArray]:
    """The function's arguments, in the types that the runtime knows."""
    p = made.problem

    def typed(array: NDArray, element: str) -> NDArray:
        return array.view(ml_dtypes.bfloat16) if element == "bf16" else array

    found = [typed(np.ascontiguousarray(x.view()), p.element) for x in (made.q, made.k, made.v)]
    if made.mask is not None:
        found.append(made.mask != 0)
    if made.bias is not None:
        found.append(typed(made.bias, "f32" if p.bias == "f32" else p.element))
    return found


def torch_error(made: Operands, reference: NDArray) -> float:
    p = made.problem
    q, k, v = (from_storage(x.view(), p.element) for x in (made.q, made.k, made.v))
    options: dict = {"scale": p.effective_scale, "enable_gqa": p.heads != p.kv_heads}
    if p.band_hi is not None:
        keep = np.tri(p.q_len, p.kv_len, p.band_hi, dtype=bool)
        options["attn_mask"] = keep
    elif made.mask is not None:
        options["attn_mask"] = np.broadcast_to(made.mask != 0, (*made.mask.shape[:3], p.kv_len))
    elif made.bias is not None:
        shape = (*made.bias.shape[:3], p.kv_len)
        options["attn_mask"] = np.broadcast_to(made.bias_values(), shape)
    return sdpa_error(q, k, v, reference, p.element, **options)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_problem(problem: Problem, spelling: str, compiled: tuple) -> None:
    element, functions, _ = compiled
    made = operands.make(problem.with_element(element), np.random.SeedSequence().entropy % 2**32)
    reference = made.reference().out
    if spelling == "decomposed":
        # A softmax that is spelled out has no answer for a row without keys; SDPA has zero.
        empty = ~np.isfinite(_row_maximum(made))
        if problem.kv_len:
            reference = np.where(empty[..., None], np.nan, reference)
    result = running.to_float(functions[f"{spelling}_{problem.name}"](*arguments(made)))
    error = torch_error(made, made.reference().out) if problem.kv_len and problem.q_len else 0.0
    assert_accurate(result, reference, error, element, f"{spelling} {problem.name}")


def _row_maximum(made: Operands) -> NDArray:
    """-inf for the rows that no key may be read by; [batch, heads, q_len]."""
    p = made.problem
    scores = np.zeros((p.batch, p.heads, p.q_len, p.kv_len))
    if p.band_hi is not None:
        scores += np.where(np.tri(p.q_len, p.kv_len, p.band_hi, dtype=bool), 0, -math.inf)
    if made.mask is not None:
        scores = scores + np.where(made.mask != 0, 0, -math.inf)
    return scores.max(axis=-1, initial=-math.inf)


def test_every_site_is_served(compiled: tuple) -> None:
    element, _, sites = compiled
    served = [site for site in sites if site["matched"]]
    refused = [site for site in sites if not site["matched"]]
    assert len(served) == len(PROBLEMS) * len(SPELLINGS) - len(VANISHES), refused
    assert [s for s in served if f"_{element}_" not in s["kernel"]] == []


def test_mask_is_not_expanded() -> None:
    """A mask of one row of keys is read where it is: no tensor of queries by keys is left."""
    problem = find("mask_key")
    flags = [*LOCAL, "--compile-to=flow"]
    text = compile_module(
        modules.decomposed(problem), flags, options={"IREE_FLASHATTN_GATE": "off"}
    ).vmfb.decode()
    main = text.split("util.func public")[1]
    assert "flow.dispatch @fa_forward" in main
    assert f"{problem.q_len}x{problem.kv_len}x" not in main
