"""One batch of random programs in a process of its own: raised, compiled both ways, run, compared.

``python -m fuzzing.worker FIRST COUNT KIND [FLAG...]`` prints one line of JSON. The process may
crash (that is what it is for); ``batches`` then tries its programs one by one.
"""

from __future__ import annotations

import json
import sys

from fuzzing.compiled import both_ways, difference, is_miscomputed, module_of, way_of
from fuzzing.runner import Tally, check

# Seeds 29, 215, 257, 309, 370, 511, 100234 and 100269: a whole row has -1e9, say, added to its
# scores. The compiler is right on every back end and at every level, and so is NumPy: f32 (f16 at
# -1e4) has no digits left for the scores beside such a number, so that the weights become equal,
# and float64 has. Values that rounding moves by more than this are taken for that. (Seed 1979, with
# another row's maximum, is of the same kind: its exponentials are below what f16 resolves.)
VANISHED = 0.1


def run_batch(first: int, count: int, kind: str = "", *flags: str) -> Tally:
    """``kind``: words. "dynamic" hides sizes, "usual" compiles with a user's own flags, "vulkan"
    and "cuda" run on such a device, for which ``flags`` can name the target."""
    tally = Tally()
    dynamic = "dynamic" in kind.split()
    seeds = range(first, first + count)
    cases = {f"seed {seed} {kind}".strip(): check(seed, tally, dynamic) for seed in seeds}
    way = way_of(kind, flags)
    ours, stock = both_ways(list(cases.values()), tally.raised_of, way)
    for seed, case in cases.items():
        name, text = case.net.name, module_of([case])
        served = ours.matched.get(name, 0)
        tally.substituted += served
        fails = name in ours.errors
        if case.plain and not fails:
            wanted = tally.raised_of[name]
            for feature in case.features:
                tally.features[feature][1] += min(served, wanted)
            refused = ours.refused.get(name, [])
            reasons = "; ".join(refused)
            meant = sum(reason.startswith("weights: ") for reason in refused)
            if served + meant < wanted:
                tally.missed.append(f"{seed}: raised, not substituted: {reasons}\n{text}")
        faults = [reason for reason in ours.refused.get(name, []) if reason.startswith("bug: ")]
        tally.crashed += [f"{seed}: {reason}\n{text}" for reason in faults]
        usual = stock.results.get(name)
        miscomputed = usual is not None and is_miscomputed(case, usual)
        if usual is None and name not in stock.errors:
            pass  # not asked
        elif usual is None:
            tally.stock_failed.append(f"{seed}: {stock.errors[name][:200]}")
        elif miscomputed and case.net.lost > VANISHED:
            tally.vanished += 1
        elif miscomputed:
            tally.stock_wrong.append(f"{seed} {case.notes}, {served} substituted")
        got = ours.results.get(name)
        stock_code = not served or miscomputed or (usual is None and not case.plain)
        if got is not None and way.device != "local-task" and stock_code:
            pass  # stock code alone, or stock code beside the site that may be at fault
        elif got is not None:
            problem = difference(case, got, usual)
            if problem:
                tally.wrong.append(f"{seed}: compiled: {problem} {case.notes}\n{text}")
        elif usual is not None:
            tally.crashed.append(f"{seed}: with the flag only: {ours.errors[name]}\n{text}")
    return tally


if __name__ == "__main__":
    done = run_batch(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
    print(json.dumps(done.as_json()))
