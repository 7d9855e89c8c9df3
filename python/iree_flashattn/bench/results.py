"""What was measured, as data: ratios, verdicts on the goals, and the JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .goals import AGAINST_STOCK, LONG, Bar, goals
from .machine import Machine


@dataclass
class Result:
    """One problem. Contenders are ``kernel``, ``torch``, ``stock fused``, ``stock spelled``, and
    where a bar asks for them ``one worker``, ``baseline`` and the probes ``fma`` and ``read``."""

    goal: str
    problem: str
    kernel: str
    flops: int
    read_bytes: int
    seconds: dict[str, float]  # contender -> median of a call
    ratio: dict[str, float]  # contender -> its time over the kernel's, median over rounds
    amount: dict[str, float]  # operations or bytes of contenders that do something else
    error: dict[str, float]  # contender -> largest error against float64
    notes: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.problem

    @property
    def gflops(self) -> float:
        return self.flops / self.seconds["kernel"] / 1e9

    @property
    def gbps(self) -> float:
        return self.read_bytes / self.seconds["kernel"] / 1e9

    @property
    def intensity(self) -> float:
        """Operations for each byte of Q, K and V."""
        return self.flops / self.read_bytes

    def value(self, measure: str) -> float | None:
        """A ratio that is better the larger it is; None where it was not measured."""
        if measure == "stock":
            found = [v for v in (self.value(m) for m in ("stock fused", "stock spelled")) if v]
            return min(found) if found else None
        contender, amount = MEASURES[measure]
        if contender not in self.ratio:
            return None
        if not amount:
            return self.ratio[contender]
        return getattr(self, amount) / self.amount[contender] * self.ratio[contender]

    def at_the_limit(self, measure: str) -> float | None:
        """What the measure would be if the kernel ran at the machine's limit, its f32 FMA peak or
        with few rows its read bandwidth. The value itself where the kernel is past that."""
        value = self.value(measure)
        share = self.value("FMA peak" if "fma" in self.ratio else "bandwidth")
        return None if value is None or not share else value / min(share, 1.0)


# Measure -> (contender, what of the kernel's is compared with the contender's amount).
MEASURES = {
    "torch": ("torch", ""),
    "stock fused": ("stock fused", ""),
    "stock spelled": ("stock spelled", ""),
    "one worker": ("one worker", ""),
    "baseline": ("baseline", "flops"),
    "FMA peak": ("fma", "flops"),
    "bandwidth": ("read", "read_bytes"),
}


@dataclass
class ModelResult:
    """One whole model: ``torch``, ``stock``, ``kernels`` (with the flag), and ``twice``, which has
    the flag and does all attention twice."""

    model: str
    batch: int
    sites: int
    served: int
    seconds: dict[str, float]
    ratio: dict[str, float]  # contender -> its time over that with the flag
    share: dict[str, float]  # of attention in the time, of ``stock`` and ``kernels``
    error: dict[str, float]  # against float64, over the largest value

    @property
    def key(self) -> tuple[str, int]:
        return self.model, self.batch


@dataclass(frozen=True)
class Verdict:
    """One bar over the results that it applies to."""

    goal: str
    bar: Bar
    values: tuple[float, ...]
    limits: tuple[float, ...] = ()  # Result.at_the_limit of each

    @property
    def met(self) -> int:
        return sum(value >= self.bar.least for value in self.values)

    @property
    def at_aim(self) -> int:
        return sum(value >= self.bar.aim for value in self.values)


def verdicts(results: Iterable[Result]) -> list[Verdict]:
    """Every bar for which something was measured, in the goals' order."""
    results = list(results)
    found = []
    for goal in goals():
        own = [r for r in results if r.goal == goal.name]
        found += [_verdict(goal.name, bar, own) for bar in goal.bars]
    for name, bar in AGAINST_STOCK:
        long = [r for r in results if bar.measure == "stock" or r.goal == LONG]
        found.append(_verdict(name, bar, long))
    return [v for v in found if v.values]


def _verdict(name: str, bar: Bar, results: list[Result]) -> Verdict:
    values = (result.value(bar.measure) for result in results)
    limits = (result.at_the_limit(bar.measure) for result in results)
    return Verdict(
        name,
        bar,
        tuple(v for v in values if v is not None),
        tuple(v for v in limits if v is not None),
    )


@dataclass
class Run:
    """A file of results: ``problems.json`` or ``models.json``."""

    date: str
    versions: dict[str, str | None]
    machine: Machine
    results: list[Result] | list[ModelResult]

    def add(self, result: Result | ModelResult) -> None:
        """In place of what was measured of the same thing before."""
        self.results = [r for r in self.results if r.key != result.key] + [result]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


class NotAResultError(RuntimeError):
    """A file that is no saved run."""


def read(path: Path, kind: type = Result) -> Run:
    """Raises NotAResultError, naming file and fault."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = Machine(**found.pop("machine"))
        return Run(machine=machine, results=[kind(**r) for r in found.pop("results")], **found)
    except OSError as error:
        raise NotAResultError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotAResultError(f"{path} is no file of `iree-flashattn bench` ({error})") from error
