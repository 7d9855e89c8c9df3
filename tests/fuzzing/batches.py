"""Many batches of random programs, some at a time, and what they found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from fuzzing.cases import make_case
from fuzzing.compiled import module_of
from fuzzing.runner import Tally

BATCH = 50
_SECONDS = 600

# first seed, number of programs, what is special ("dynamic", "usual": fuzzing.worker), flags
Job = tuple[int, int, str, tuple[str, ...]]
Progress = Callable[[Job, Tally], None]


def jobs(first: int, count: int, device: str = "", flags: tuple[str, ...] = ()) -> Iterator[Job]:
    """Batches that cover the seeds. Of eight one has sizes that only the run time knows, and on
    the CPU one is compiled with a user's own flags instead of the quickest ones."""
    kinds = {3: f"dynamic {device}".strip(), 6: device or "usual"}
    for number, start in enumerate(range(first, first + count, BATCH)):
        yield start, min(BATCH, first + count - start), kinds.get(number % 8, device), flags


def cores() -> int:
    """This process's share of them: pytest-xdist runs several."""
    sharing = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    known = hasattr(os, "sched_getaffinity")
    found = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, found // sharing)


def run_jobs(
    todo: Iterable[Job],
    workers: int | None = None,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> Tally:
    """All batches, ``workers`` at a time (each keeps one core busy); none starts after ``seconds``.

    ``progress`` hears of each batch as it ends. An interruption does not wait for those that run.
    """
    total, start = Tally(), time.monotonic()

    def in_time(job: Job) -> Tally | None:
        late = seconds is not None and time.monotonic() - start > seconds
        return None if late else _run(job)

    pool = ThreadPoolExecutor(workers or cores())
    running = {pool.submit(in_time, job): job for job in todo}
    try:
        for done in as_completed(running):
            found = done.result()
            if found is None:
                continue
            total.add(found.as_json())
            if progress is not None:
                progress(running[done], found)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return total


def _run(job: Job) -> Tally:
    first, count, kind, flags = job
    found, message = _worker(job)
    total = Tally()
    if found is not None:
        total.add(found)
    elif count == 1:
        text = module_of([make_case(first, "dynamic" in kind)])
        total.cases = 1
        total.crashed.append(f"seed {first} {kind}: {message}\n{text}")
    else:
        for seed in range(first, first + count):
            total.add(_run((seed, 1, kind, flags)).as_json())
    return total


def _worker(job: Job) -> tuple[dict | None, str]:
    """What a worker process says, or None and how it ended."""
    first, count, kind, flags = job
    command = [sys.executable, "-m", "fuzzing.worker", str(first), str(count), kind, *flags]
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    # One worker is for one core: neither the compiler nor NumPy starts threads.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS,
            env=os.environ | {"PYTHONPATH": path} | single,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, f"no end within {_SECONDS} s"
    if done.returncode:
        return None, f"exit status {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1]), ""


def counts(tally: Tally) -> str:
    return (
        f"{tally.cases} programs, {tally.plain} of them plain; {tally.sites} sites raised,"
        f" {tally.substituted} substituted; {len(tally.missed)} missed, {len(tally.wrong)} wrong,"
        f" {len(tally.crashed)} crashed; stock cannot compile or run {len(tally.stock_failed)} and"
        f" miscomputes {len(tally.stock_wrong)}; {tally.vanished} need more digits than their type"
        " has"
    )


def summary(tally: Tally) -> str:
    """The counts, and for each feature how many of its attentions were substituted."""
    lines = [counts(tally)]
    for feature, (there, served) in sorted(tally.features.items()):
        lines.append(f"  {feature:28} {served:5} of {there}")
    return "\n".join(lines)


def problems(tally: Tally) -> str:
    return "\n".join([*tally.crashed, *tally.wrong, *tally.missed])
