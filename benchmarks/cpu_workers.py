"""The same module on one worker and on several, through the IREE runtime.

    python benchmarks/cpu_workers.py [--problems REGEX] [--workers 2] [--rounds 15]

One process for each number of workers holds the module; rounds alternate between them. The table
has the fastest round of each, in wall time, and whether the results have the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from iree_flashattn import operands, problems
from iree_flashattn.bench import modules, running
from iree_flashattn.compiling import LOCAL, compile_module


def serve(name: str, vmfb: Path, workers: int) -> None:
    """Answers every line of the input with the seconds of a call; then the hash of the result."""
    from iree.runtime import flags

    flags.parse_flags(f"--task_topology_group_count={workers}")
    made = operands.make(problems.find(name), 1)
    call = running.load(vmfb.read_bytes())
    arguments = [
        running.on_device(np.ascontiguousarray(x.view())) for x in (made.q, made.k, made.v)
    ]
    result = call(*arguments).to_host()
    for _ in sys.stdin:
        start = time.perf_counter()
        result = call(*arguments).to_host()
        print(time.perf_counter() - start, flush=True)
    print(hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest())


def measure(name: str, counts: list[int], rounds: int) -> tuple[list[float], bool]:
    with tempfile.TemporaryDirectory() as folder:
        vmfb = Path(folder) / "module.vmfb"
        vmfb.write_bytes(compile_module(modules.fused(problems.find(name)), LOCAL).vmfb)
        command = [sys.executable, __file__, "--serve", name, "--vmfb", str(vmfb), "--workers"]
        children = [
            subprocess.Popen(
                [*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for n in counts
        ]
        best = [float("inf")] * len(counts)
        for _ in range(rounds):
            for i, child in enumerate(children):
                child.stdin.write("\n")
                child.stdin.flush()
                best[i] = min(best[i], float(child.stdout.readline()))
        results = {child.communicate()[0] for child in children}
        return best, len(results) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default="^decode")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--vmfb", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.vmfb, options.workers)
        return
    print(f"{'problem':22} {'1 worker':>10} {options.workers:2} workers {'ratio':>6}  same bits")
    for problem in problems.benchmark():
        if not re.search(options.problems, problem.name):
            continue
        if problem.mask or problem.bias:
            continue  # only q, k and v are handed over
        (one, several), same = measure(problem.name, [1, options.workers], options.rounds)
        times = f"{one * 1e3:7.3f} ms {several * 1e3:7.3f} ms"
        print(f"{problem.name:22} {times} {one / several:6.2f}  {same}", flush=True)


if __name__ == "__main__":
    main()
