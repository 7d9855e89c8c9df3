"""Many batches of random programs, two at a time, and what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzzing.cases import make_case
from fuzzing.compiled import module_of
from fuzzing.runner import Tally

BATCH = 50
WORKERS = 2
_SECONDS = 600

Job = tuple[int, int, bool]  # first seed, number of programs, run-time sizes


def jobs(first: int, count: int) -> Iterator[Job]:
    """Batches that cover the seeds; every eighth one has sizes that only the run time knows."""
    for number, start in enumerate(range(first, first + count, BATCH)):
        yield start, min(BATCH, first + count - start), number % 8 == 3


def run_jobs(todo: Iterable[Job]) -> Tally:
    total = Tally()
    with ThreadPoolExecutor(WORKERS) as pool:
        for found in pool.map(_run, todo):
            total.add(found)
    return total


def _run(job: Job) -> dict:
    first, count, dynamic = job
    found, message = _worker(job)
    if found is not None:
        return found
    total = Tally()
    if count == 1:
        text = module_of([make_case(first, dynamic)])
        total.cases = 1
        total.crashed.append(f"seed {first}{' dynamic' * dynamic}: {message}\n{text}")
        return total.as_json()
    for seed in range(first, first + count):
        total.add(_run((seed, 1, dynamic)))
    return total.as_json()


def _worker(job: Job) -> tuple[dict | None, str]:
    """What a worker process says, or None and how it ended."""
    first, count, dynamic = job
    command = [sys.executable, "-m", "fuzzing.worker", str(first), str(count)]
    command += ["dynamic"] * dynamic
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, f"no end within {_SECONDS} s"
    if done.returncode:
        return None, f"exit status {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1]), ""


def summary(tally: Tally) -> str:
    """The counts, and for each feature how many of its attentions were substituted."""
    lines = [
        f"{tally.cases} programs, {tally.plain} of them plain; {tally.sites} sites raised,"
        f" {tally.substituted} substituted; {len(tally.missed)} missed, {len(tally.wrong)} wrong,"
        f" {len(tally.crashed)} crashed; stock cannot compile or run {len(tally.stock_failed)} and"
        f" miscomputes {len(tally.stock_wrong)}"
    ]
    for feature, (there, served) in sorted(tally.features.items()):
        lines.append(f"  {feature:28} {served:5} of {there}")
    return "\n".join(lines)


def problems(tally: Tally) -> str:
    return "\n".join([*tally.crashed, *tally.wrong, *tally.missed])
