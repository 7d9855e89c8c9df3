"""Random programs: compiled with the flag they compute what they say, and nothing is missed.

Each program is raised and what its sites mean is evaluated in NumPy; it is compiled with the flag
and without, run both ways, and compared with NumPy's float64. Look-alikes may be left alone.
On demand, from the folder ``tests``: ``python -m fuzzing FIRST_SEED COUNT``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzzing import compiled, runner, worker
from fuzzing.batches import jobs, problems, run_jobs, summary
from fuzzing.cases import make_case
from fuzzing.runner import Tally, run
from fuzzing.worker import run_batch
from support.devices import why_no_vulkan

PROGRAMS, AT_ONCE = 2000, 100
# What front ends really write: each has to be in the programs, often enough to mean something.
FEATURES = """ALiBi|NaN guard|band|band and padding|bf16|bias|boolean mask|chained attention
constant mask|dim of one|f16|f32|floor under the sum|grouped heads|guard for masked rows
masked twice|packed QKV|part of the result|repeated heads|run-time sizes
scores as a result|shared keys and values|sink|slice of an input
softcap|softmax: exp2|softmax: late|softmax: log|softmax: nomax|softmax: recip|swapped operands
weights as a result|window""".replace("\n", "|").split("|")


@pytest.fixture
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the tallies of all batches, whichever process of pytest-xdist runs them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tallies"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("first", range(0, PROGRAMS, AT_ONCE))
def test_compiled_programs(first: int, together: Path, record_property: Callable) -> None:
    """Batches end in any order; the one that finds the tallies of all looks at the whole."""
    tally = run_jobs(job for job in jobs(0, PROGRAMS) if first <= job[0] < first + AT_ONCE)
    unfinished = together / f"{first}.tmp"
    unfinished.write_text(json.dumps(tally.as_json()))
    unfinished.rename(together / f"{first}.json")
    found = problems(tally)
    assert not found, found
    assert tally.cases == AT_ONCE
    everything = Tally()
    for path in together.glob("*.json"):
        everything.add(json.loads(path.read_text()))
    if everything.cases == PROGRAMS:
        record_property("summary", f"random programs: {summary(everything)}")
        expect_enough(everything)


def expect_attention(tally: Tally) -> None:
    """The generator still makes what it is meant to make: attention, and twisted attention."""
    assert tally.cases // 2 < tally.plain < tally.cases * 9 // 10
    assert tally.sites > tally.cases // 2


def expect_enough(tally: Tally) -> None:
    expect_attention(tally)
    assert tally.substituted > tally.cases // 2
    # What stock IREE cannot do itself is counted, and has to stay an exception.
    assert len(tally.stock_failed) + len(tally.stock_wrong) < tally.cases // 20, (
        tally.stock_failed, tally.stock_wrong,
    )  # fmt: skip
    absent = {name: tally.features[name] for name in FEATURES if not tally.features[name][1]}
    assert not absent, absent


def test_rearranged_probabilities_of_run_time_sizes() -> None:
    """A reshape of P that only tells a size, and heads that would be as many as the batch."""
    tally = run_batch(200595, 1, "dynamic")
    assert not problems(tally), problems(tally)
    assert tally.substituted == tally.sites == 1


@pytest.mark.vulkan
@pytest.mark.skipif(bool(why_no_vulkan()), reason=why_no_vulkan() or "-")
@pytest.mark.parametrize("kind", ["", "dynamic"])
def test_programs_on_a_vulkan_device(kind: str) -> None:
    """For a target with 16-bit storage: for the default one stock code is wrong in f16."""
    flags = ("--iree-vulkan-target=ampere",)
    # (a process of its own: an open lavapipe device keeps two threads busy)
    tally = run_jobs([(8000600, 8, f"{kind} vulkan", flags)])
    found = problems(tally)
    assert not found, found
    assert tally.substituted >= 4


def test_a_feature_that_is_never_substituted_is_caught() -> None:
    tally = Tally(cases=100, plain=70, sites=100, substituted=100)
    tally.features |= {name: [40, 20] for name in FEATURES}
    expect_enough(tally)
    tally.features["softcap"] = [40, 0]
    with pytest.raises(AssertionError, match="softcap"):
        expect_enough(tally)


def test_a_wrong_site_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site whose scale is off by a tenth."""
    original = runner.evaluate_site

    def scaled(site, known, round_terms):
        site.scale *= 1.1
        return original(site, known, round_terms)

    monkeypatch.setattr(runner, "evaluate_site", scaled)
    assert len(run(0, 20).wrong) > 5


def test_a_fault_that_leaves_a_site_to_stock_code_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look-alike may be declined, but not because the package failed at it."""

    def refused(cases: list, sites: dict, way: object) -> compiled.Sides:
        side = compiled.Side(refused={case.net.name: ["bug: KeyError()"] for case in cases})
        return side, compiled.Side()

    monkeypatch.setattr(worker, "both_ways", refused)
    assert len([line for line in run_batch(0, 3).crashed if "bug: KeyError" in line]) == 3


def test_a_wrong_result_is_caught() -> None:
    case = make_case(0)
    right = [value.array for value in case.results]
    assert compiled.difference(case, right, right) == ""
    wrong = [array * 1.2 for array in right]
    assert "error" in compiled.difference(case, wrong, right)
    broken = [array.copy() for array in right]
    broken[0].reshape(-1)[0] = float("nan")
    assert "finite" in compiled.difference(case, broken, right)


def test_a_program_that_does_not_compile_is_found_alone() -> None:
    cases = [make_case(seed) for seed in range(4)]
    cases[2].net.lines.append("    %broken = arith.constant true : f32")
    side = compiled.with_flag(cases)
    assert list(side.errors) == [cases[2].net.name]
    assert set(side.results) == {c.net.name for c in cases} - set(side.errors)
