"""Random programs: compiled with the flag they compute what they say, and nothing is missed.

Each program is raised and what its sites mean is evaluated in NumPy; the first ones are also
compiled with the flag and without, run both ways, and compared with NumPy's float64. (Compiling all
2,000 would take two processors of 2021 25 minutes.) Look-alikes may be left alone.
On demand, from the folder ``tests``: ``python -m fuzzing FIRST_SEED COUNT``.
"""

from __future__ import annotations

import pytest

from fuzzing import compiled, runner
from fuzzing.batches import counts, jobs, problems, run_jobs, summary
from fuzzing.cases import make_case
from fuzzing.runner import Tally, run
from fuzzing.worker import run_batch

PROGRAMS, COMPILED, AT_ONCE = 2000, 600, 200
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


@pytest.fixture(scope="module")
def covered() -> Tally:
    """What all tests of this file have run together."""
    return Tally()


@pytest.mark.parametrize("first", range(0, COMPILED, AT_ONCE))
def test_compiled_programs(first: int, covered: Tally, capsys: pytest.CaptureFixture) -> None:
    todo = [job for job in jobs(0, PROGRAMS) if first <= job[0] < first + AT_ONCE]
    tally = run_jobs(todo)
    covered.add(tally.as_json())
    with capsys.disabled():
        print(f"\nseeds {first} to {first + AT_ONCE - 1}: {counts(tally)}")
    expect_nothing_found(tally, AT_ONCE)
    assert tally.substituted > AT_ONCE // 2
    # What stock IREE cannot do itself is counted, and has to stay an exception.
    assert len(tally.stock_failed) + len(tally.stock_wrong) < AT_ONCE // 20, (
        tally.stock_failed, tally.stock_wrong,
    )  # fmt: skip


@pytest.mark.parametrize("first", range(COMPILED, PROGRAMS, AT_ONCE))
def test_raised_programs(first: int) -> None:
    """What sites mean, evaluated in NumPy; without the compiler."""
    tally = Tally()
    for start, count, kind in jobs(0, PROGRAMS):
        if first <= start < first + AT_ONCE:
            tally.add(run(start, count, kind == "dynamic").as_json())
    expect_nothing_found(tally, AT_ONCE)


def test_every_feature_is_substituted(covered: Tally, capsys: pytest.CaptureFixture) -> None:
    if covered.cases < COMPILED:
        pytest.skip(f"only {covered.cases} of {COMPILED} programs were run")
    with capsys.disabled():
        print(f"\n{summary(covered)}")
    absent = {name: covered.features[name] for name in FEATURES if not covered.features[name][1]}
    assert not absent, absent


def test_rearranged_probabilities_of_run_time_sizes() -> None:
    """A reshape of P that only tells a size, and heads that would be as many as the batch."""
    tally = run_batch(200595, 1, "dynamic")
    assert not problems(tally), problems(tally)
    assert tally.substituted == tally.sites == 1


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
