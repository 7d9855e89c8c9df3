"""``python -m fuzzing FIRST COUNT``, in the folder ``tests``: random programs on demand.

One line tells of each batch as it ends, and what is wrong follows at once with its seed and text:
whoever stops the run keeps what it has found. A summary of all that was covered ends it, after an
interruption and after ``--seconds``, too.
"""

from __future__ import annotations

import argparse
import os
import signal
import time

from fuzzing.batches import Job, cores, counts, jobs, problems, run_jobs, summary
from fuzzing.runner import Tally

parser = argparse.ArgumentParser(prog="python -m fuzzing", description="Random programs.")
parser.add_argument("first", type=int, help="the first seed")
parser.add_argument("count", type=int, help="how many seeds")
parser.add_argument("--workers", type=int, default=cores(), help="processes (default: the cores)")
parser.add_argument("--seconds", type=float, help="start no batch after so many seconds")
parser.add_argument("--device", choices=["vulkan", "cuda"], help="run there, not on the CPU")
parser.add_argument("--flag", action="append", default=[], help="one more flag of iree-compile")
chosen = parser.parse_args()
todo = list(jobs(chosen.first, chosen.count, chosen.device or "", tuple(chosen.flag)))
start, covered = time.monotonic(), Tally()


def tell(job: Job, found: Tally) -> None:
    covered.add(found.as_json())
    first, count, kind, _ = job
    share = f"{covered.cases}/{chosen.count} after {time.monotonic() - start:.0f} s"
    print(f"[{share}] seeds {first} to {first + count - 1} {kind}: {counts(found)}")
    for line in [*found.stock_failed, *found.stock_wrong]:
        print("stock:", line)
    print(problems(found), end="\n" * bool(problems(found)), flush=True)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, stop)
print(f"seeds {chosen.first} to {chosen.first + chosen.count - 1}, {chosen.workers} workers")
try:
    run_jobs(todo, chosen.workers, chosen.seconds, tell)
except KeyboardInterrupt:
    print("interrupted")
print(problems(covered), end="\n" * bool(problems(covered)))
print(summary(covered), flush=True)
# (a batch that still runs is not waited for)
os._exit(bool(problems(covered)) or covered.cases < chosen.count)
