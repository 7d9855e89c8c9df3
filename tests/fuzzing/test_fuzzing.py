"""Random programs: compiled with the flag they compute what they say, and nothing is missed.

Each program is raised and what its sites mean is evaluated in NumPy; the first ones are also
compiled with the flag and without, run both ways, and compared with NumPy's float64. Look-alikes
may be left alone.
On demand, from the folder ``tests``: ``python -m fuzzing FIRST_SEED COUNT``.
"""

from __future__ import annotations

import pytest

from fuzzing import compiled, runner
from fuzzing.batches import jobs, problems, run_jobs, summary
from fuzzing.cases import make_case
from fuzzing.runner import Tally, run

COMPILED, RAISED = 200, 2000
# What front ends really write: each has to be in the programs, often enough to mean something.
FEATURES = """ALiBi|NaN guard|band|band and padding|bf16|bias|boolean mask|chained attention
constant mask|dim of one|f16|f32|grouped heads|guard for masked rows|packed QKV|part of the result
repeated heads|run-time sizes|scores as a result|shared keys and values|sink|slice of an input
softcap|softmax: exp2|softmax: late|softmax: log|softmax: nomax|softmax: recip|swapped operands
weights as a result|window""".replace("\n", "|").split("|")


def expect_nothing_found(tally: Tally, cases: int) -> None:
    found = problems(tally)
    assert not found, found
    # The generator still makes what it is meant to make: attention, and twisted attention.
    assert tally.cases == cases
    assert cases // 2 < tally.plain < cases * 9 // 10
    assert tally.sites > cases // 2


def test_compiled_programs(capsys: pytest.CaptureFixture) -> None:
    tally = run_jobs(jobs(0, COMPILED))
    with capsys.disabled():
        print(f"\nseeds 0 to {COMPILED - 1}: {summary(tally)}")
    expect_nothing_found(tally, COMPILED)
    assert tally.substituted > COMPILED // 2
    absent = {name: tally.features[name] for name in FEATURES if not tally.features[name][1]}
    assert not absent, absent
    # What stock IREE cannot do itself is counted, and has to stay an exception.
    assert len(tally.stock_failed) + len(tally.stock_wrong) < COMPILED // 50, (
        tally.stock_failed, tally.stock_wrong,
    )  # fmt: skip


@pytest.mark.parametrize("first", range(COMPILED, RAISED, 200))
def test_raised_programs(first: int) -> None:
    """What sites mean, evaluated in NumPy; without the compiler."""
    tally = Tally()
    for start, count, dynamic in jobs(0, RAISED):
        if first <= start < first + 200:
            tally.add(run(start, count, dynamic).as_json())
    expect_nothing_found(tally, 200)


def test_a_wrong_site_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site whose scale is off by a tenth."""
    original = runner.evaluate_site

    def scaled(site, known):
        site.scale *= 1.1
        return original(site, known)

    monkeypatch.setattr(runner, "evaluate_site", scaled)
    assert len(run(0, 20).wrong) > 5


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
