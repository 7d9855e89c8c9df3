"""Random programs: whatever is raised means what the program computes, and nothing is missed.

On demand, from the folder ``tests``: ``python -m fuzzing.runner FIRST_SEED COUNT [dynamic]``.
"""

from __future__ import annotations

import pytest

from fuzzing.compiled import run_compiled
from fuzzing.runner import run

BATCH = 200


@pytest.mark.parametrize("first", range(0, 2000, BATCH))
def test_sites_mean_what_programs_compute(first: int) -> None:
    tally = run(first, BATCH)
    assert not tally.crashed, tally.crashed
    assert not tally.wrong, tally.wrong
    assert not tally.missed, tally.missed
    # The generator still makes what it is meant to make: attention, and twisted attention.
    assert tally.sites > BATCH // 2
    assert BATCH // 4 < tally.plain < BATCH


@pytest.mark.parametrize("first", range(0, 400, BATCH))
def test_run_time_sizes(first: int) -> None:
    """Programs with sizes that only the run time knows, evaluated at the sizes of one run.

    Sites may be missed: sizes that the program never says to be equal are not taken to be.
    """
    tally = run(first, BATCH, dynamic=True)
    assert not tally.crashed, tally.crashed
    assert not tally.wrong, tally.wrong
    assert tally.sites > 2 * BATCH // 5


def test_compiled_programs_compute_the_same() -> None:
    """A sample compiled with the flag and without, and run; NumPy's values are the reference."""
    outcome = run_compiled(first=100_000, count=24)
    assert outcome.substituted >= 12
    assert not outcome.wrong, outcome.wrong


def test_compiled_programs_with_run_time_sizes() -> None:
    outcome = run_compiled(first=200_000, count=10, dynamic=True)
    assert outcome.substituted >= 4
    assert not outcome.wrong, outcome.wrong


def test_the_check_can_fail() -> None:
    """A site whose scale is off by a tenth is caught."""
    from fuzzing import runner

    original = runner.evaluate_site

    def scaled(site, known):
        site.scale *= 1.1
        return original(site, known)

    runner.evaluate_site = scaled
    try:
        tally = run(0, 20)
    finally:
        runner.evaluate_site = original
    assert len(tally.wrong) > 5
