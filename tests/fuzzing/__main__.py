"""``python -m fuzzing FIRST COUNT``, in the folder ``tests``: random programs on demand."""

from __future__ import annotations

import sys

from fuzzing.batches import jobs, problems, run_jobs, summary

first, count = int(sys.argv[1]), int(sys.argv[2])
print(f"seeds {first} to {first + count - 1}")
found = run_jobs(jobs(first, count))
print(problems(found))
for line in [*found.stock_failed, *found.stock_wrong]:
    print("stock:", line)
print(summary(found))
sys.exit(bool(problems(found)))
