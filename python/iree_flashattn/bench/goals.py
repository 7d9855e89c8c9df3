"""What the kernels are held to: for each group of problems the bars, all of them ratios.

One run measures both sides of a ratio in turns, so that it says the same on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..problems import Problem, benchmark, find


@dataclass(frozen=True)
class Bar:
    """``measure`` (a name of results.MEASURES) has to be ``least``; ``aim`` is what it could be."""

    measure: str
    least: float
    aim: float


@dataclass(frozen=True)
class Case:
    problem: Problem
    baseline: Problem | None = None  # whose rate the bar compares with
    family: str = ""  # kernels of this family alone

    @property
    def name(self) -> str:
        return f"{self.problem.name}_{self.family}" if self.family else self.problem.name


@dataclass(frozen=True)
class Goal:
    name: str
    cases: tuple[Case, ...]
    bars: tuple[Bar, ...]
    default: bool = True  # measured without being asked for

    @property
    def measures(self) -> frozenset[str]:
        return frozenset(bar.measure for bar in self.bars)


# Over all results that have the measure, not only over those of one goal.
AGAINST_STOCK = (
    ("against stock, every problem", Bar("stock", 1.0, 1.0)),
    ("against its fused op, long f32", Bar("stock fused", 60.0, 60.0)),
)
LONG = "long f32"


def goals() -> list[Goal]:
    """The goals in the order of the table, each with its cases."""
    dims = (64, 128)
    longs = [f"s{length}_d{dim}" for dim in dims for length in (1024, 2048, 4096, 8192)]
    unmasked = find("prefill_s1024_d64"), find("bert_s256")
    return [
        Goal(
            LONG,
            _cases(f"prefill_{size}" for size in longs),
            (Bar("torch", 1.25, 1.4), Bar("FMA peak", 0.75, 0.85)),
        ),
        Goal("long f32, causal", _cases(f"causal_{size}" for size in longs),
             (Bar("torch", 1.5, 1.8),)),
        Goal("long bf16", _cases((f"prefill_s2048_d{d}" for d in dims), "bf16"),
             (Bar("torch", 1.9, 2.2),)),
        Goal("long f16", _cases((f"prefill_s2048_d{d}" for d in dims), "f16"),
             (Bar("torch", 1.25, 1.4),)),
        Goal("short", _cases(["bert_s64", "bert_s128", "bert_s256", "vit_s197", "short_s256"]),
             (Bar("torch", 1.2, 1.5),)),
        Goal("decode", _cases(["decode_mha"]), (Bar("bandwidth", 0.8, 0.92),)),
        Goal("decode, 4 heads a kv head", _cases(["decode_gqa4"]),
             (Bar("bandwidth", 0.8, 0.92), Bar("torch", 1.8, 3.0))),
        Goal("decode, one head", _cases(["decode_one_head"]),
             (Bar("bandwidth", 0.8, 0.92), Bar("one worker", 1.6, 1.9))),
        Goal("head dims", tuple(_odd_dims()), (Bar("baseline", 0.9, 1.0),)),
        Goal(
            "masks",
            (
                _case("bias_s1024", "f32", unmasked[0]),
                _case("mask_s1024", "f32", unmasked[0]),
                _case("bert_mask_s256", "f32", unmasked[1]),
            ),
            (Bar("baseline", round(1 / 1.1, 3), round(1 / 1.05, 3)),),
        ),
        Goal("AVX2", tuple(replace(c, family="avx2")
                           for c in _cases(f"prefill_s2048_d{d}" for d in dims)),
             (Bar("FMA peak", 0.7, 0.8),)),
        Goal("others", _cases(["gqa_prefill_s1024", "cross_77"]), ()),
        Goal("short, 16 bits", _cases(["bert_s128", "vit_s197"], "bf16")
             + _cases(["bert_s128", "vit_s197"], "f16"), (), default=False),
        Goal("decode, 16 bits", _cases(["decode_mha", "decode_gqa4"], "bf16")
             + _cases(["decode_mha", "decode_gqa4"], "f16"), (), default=False),
        Goal("tiny", tuple(Case(p.with_element("f32")) for p in tiny()), (), default=False),
    ]  # fmt: skip


def tiny() -> list[Problem]:
    """The shapes around the cost gate's limits."""
    return [
        Problem(f"tiny_h{heads}_s{length}_d{dim}", heads=heads, q_len=length, kv_len=length, dk=dim)
        for heads in (8, 96)
        for length in (1, 4, 8, 16, 32)
        for dim in (8, 32, 64)
    ]


def selected(only: str = "", quick: bool = False) -> list[tuple[Goal, Case]]:
    """Cases whose name, or whose goal's name, contains ``only``; the default ones if it is empty.

    ``quick``: the first case of each goal.
    """
    found = []
    for goal in goals():
        if not only and not goal.default:
            continue
        cases = [c for c in goal.cases if only in c.name or only in goal.name]
        found += [(goal, case) for case in (cases[:1] if quick else cases)]
    return found


def _case(name: str, element: str, baseline: Problem | None = None) -> Case:
    other = None if baseline is None else baseline.with_element(element)
    return Case(find(name).with_element(element), other)


def _cases(names: Iterator[str] | list[str], element: str = "f32") -> tuple[Case, ...]:
    return tuple(_case(name, element) for name in names)


def _odd_dims() -> Iterator[Case]:
    """Beside each head dim that is no power of two the nearest one that is, the larger of two."""
    nearest = {40: 64, 72: 64, 80: 64, 96: 128, 160: 128, 192: 256, 256: 128}
    for dim, power in nearest.items():
        found = find(f"prefill_s1024_d{dim}")
        yield _case(found.name, "f32", replace(found, name=f"d{power}", dk=power, dv=power))


def unclaimed() -> set[str]:
    """Problems of the list that no goal measures."""
    claimed = {case.problem.name.rpartition("_")[0] for goal in goals() for case in goal.cases}
    return {p.name for p in benchmark()} - claimed
