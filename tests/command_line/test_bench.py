"""``iree-flashattn bench``: goals and verdicts, the saved file, tables, plots, and a real run."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iree_flashattn.bench import goals, plots, results, running
from iree_flashattn.bench.machine import Machine
from iree_flashattn.bench.results import ModelResult, Result, Run
from support.command_line import run

MACHINE = Machine("test", "avx2", 200.0, 20.0)


def result(problem: str = "p", goal: str = goals.LONG, **ratio: float) -> Result:
    return Result(
        goal=goal,
        problem=problem,
        kernel="fa_forward_f32_avx512",
        flops=100,
        read_bytes=10,
        seconds={"kernel": 2.0, **{name: 2.0 * value for name, value in ratio.items()}},
        ratio=ratio,
        amount={"fma": 400.0, "read": 40.0, "baseline": 50.0},
        error={"kernel": 1e-7},
    )


def test_every_problem_of_the_list_has_a_goal() -> None:
    assert goals.unclaimed() == set()


def test_names_are_unique() -> None:
    names = [case.name for goal in goals.goals() for case in goal.cases]
    assert len(names) == len(set(names))


class Clock:
    """Time that only sleeping makes pass: a busy machine cannot disturb what is measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_contenders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short calls are repeated within a turn; of a long one the first call is enough."""
    clock = Clock()
    monkeypatch.setattr(running, "time", clock)
    calls: list[str] = []
    contenders = {
        "short": lambda: (calls.append("short"), clock.sleep(0.001)),
        "middle": lambda: (calls.append("middle"), clock.sleep(0.03)),
        "long": lambda: (calls.append("long"), clock.sleep(1.01)),
    }
    times = running.interleaved(contenders, 0.3, least=4)
    assert len(times["short"]) >= 4
    assert len(times["middle"]) == 4  # 0.12 of the 0.1 seconds that it has
    assert len(times["long"]) == calls.count("long") == 1
    assert calls.count("short") >= 5 * len(times["short"])
    order = [name for name, _ in itertools.groupby(calls)]
    assert order[:3] == ["short", "middle", "long"]
    assert order[3:9] == ["short", "middle"] * 3
    assert 0.02 < running.ratio(times, "short", "middle") < 0.5


def workers_of_a_device(asked: int) -> int:
    """Counted in a process of its own: devices of this one have workers, too. A worker names itself
    when it starts to run, which may be later than the device is there."""
    code = f"""
import pathlib, time
from iree_flashattn.bench import running
running.use_workers({asked})
device = running.configuration().device
for attempt in range(100):
    names = [f.read_text() for f in pathlib.Path("/proc/self/task").glob("*/comm")]
    if (count := sum(name.startswith("iree-worker") for name in names)) >= {asked}:
        break
    time.sleep(0.1)
print(count)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_devices_have_the_workers_that_were_asked_for() -> None:
    assert workers_of_a_device(3) == 3


def test_every_bar_can_be_measured_and_printed() -> None:
    from iree_flashattn.cli.bench_tables import MEASURES

    bars = [bar for goal in goals.goals() for bar in goal.bars]
    bars += [bar for _, bar in goals.AGAINST_STOCK]
    for bar in bars:
        assert bar.measure in MEASURES
        assert bar.measure == "stock" or bar.measure in results.MEASURES
        assert bar.least <= bar.aim


def test_quick_has_every_default_group() -> None:
    groups = {goal.name for goal in goals.goals() if goal.default}
    assert {goal.name for goal, _ in goals.selected(quick=True)} == groups


def test_only_finds_names_and_groups() -> None:
    assert {case.name for _, case in goals.selected("cross_77")} == {"cross_77_f32"}
    assert len(goals.selected("tiny")) == len(goals.tiny())


def test_values() -> None:
    found = result(**{"torch": 1.5, "stock fused": 70.0, "stock spelled": 3.0, "fma": 2.0,
                      "read": 2.0, "baseline": 0.5})  # fmt: skip
    assert found.value("torch") == 1.5
    assert found.value("stock") == 3.0  # of the faster form
    assert found.value("FMA peak") == 0.5  # a quarter of the probe's operations in half its time
    assert found.value("bandwidth") == 0.5
    assert found.value("baseline") == 1.0
    assert found.value("one worker") is None


def test_verdicts() -> None:
    met = result("a", torch=1.3, fma=3.2)
    missed = result("b", torch=1.2, fma=3.0)
    found = {(v.goal, v.bar.measure): v for v in results.verdicts([met, missed])}
    torch = found[goals.LONG, "torch"]
    assert (torch.met, torch.at_aim, torch.values) == (1, 0, (1.3, 1.2))
    assert found[goals.LONG, "FMA peak"].met == 2
    assert torch.limits == pytest.approx((1.3 / 0.8, 1.2 / 0.75))
    assert not any(measure == "stock" for _, measure in found)  # nothing was measured


def saved(folder: Path) -> Run:
    made = Run("today", {"iree": "1", "torch": None}, MACHINE, [result("a", torch=1.3)])
    made.write(folder / "problems.json")
    return made


def test_a_saved_run_is_read_back(tmp_path: Path) -> None:
    made = saved(tmp_path)
    assert results.read(tmp_path / "problems.json") == made


def test_a_result_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    made = saved(tmp_path)
    made.add(result("b"))
    made.add(result("a", torch=2.0))
    assert [(r.problem, r.ratio.get("torch")) for r in made.results] == [("b", None), ("a", 2.0)]


def test_show(tmp_path: Path) -> None:
    saved(tmp_path)
    out, _ = run("bench", "--show", str(tmp_path), "--out", str(tmp_path / "out"), "--markdown")
    assert "| long f32 | times as fast as torch | met | 1.25 | 1.40 | 1.30 | 1.30 | 1 of 1 | |" in (
        " ".join(out.split())
    )


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = plots.write(saved(tmp_path), tmp_path)
    models = Run("today", {}, MACHINE, [
        ModelResult("m", 1, 2, 2, {"stock": 2.0, "kernels": 1.0, "torch": 1.0, "twice": 1.5},
                    {"stock": 2.0, "torch": 1.0, "twice": 1.5}, {"stock": 0.75, "kernels": 0.5}, {})
    ])  # fmt: skip
    drawn += plots.write(models, tmp_path)
    assert [path.name for path in drawn] == ["speedup.svg", "roofline.svg", "models.svg"]
    assert all("</svg>" in path.read_text() for path in drawn)
    before = [path.read_bytes() for path in drawn]
    again = plots.write(saved(tmp_path), tmp_path) + plots.write(models, tmp_path)
    assert [path.read_bytes() for path in again] == before


def test_bench(tmp_path: Path) -> None:
    arguments = ("--seconds", "0.1", "--no-stock", "--out", str(tmp_path))
    out, _ = run("bench", "--only", "cross_77", "--workers", "1", "--no-batch", *arguments)
    assert ", 1 workers, FMA peak" in out
    first = results.read(tmp_path / "problems.json")
    (found,) = first.results
    assert found.problem == "cross_77_f32"
    assert found.seconds["kernel"] > 0
    assert found.error["kernel"] < 1e-5
    assert found.value("FMA peak") > 0
    assert first.machine.read_gbps > 0
    assert first.machine.workers == 1
    assert not first.machine.batch
    # One worker, the read probe, split keys; beside what the file has already.
    out, _ = run("bench", "--only", "decode_one_head", "--update", *arguments)
    second = results.read(tmp_path / "problems.json")
    assert [r.problem for r in second.results] == ["cross_77_f32", "decode_one_head_f32"]
    assert "times as fast as one worker" in out
    assert second.machine.workers == 0
    assert second.machine.batch == hasattr(os, "SCHED_BATCH")


def test_bench_of_the_runtime_extension(tmp_path: Path) -> None:
    out, _ = run(
        "bench", "--only", "cross_77", "--extension", "--no-batch", "--seconds", "0.1",
        "--no-stock", "--out", str(tmp_path),
    )  # fmt: skip
    assert ", runtime extension, FMA peak" in out
    found = results.read(tmp_path / "problems.json")
    assert found.machine.extension
    assert found.results[0].error["kernel"] < 1e-5


def test_a_file_from_before_workers_were_counted(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "problems.json"
    text = json.loads(file.read_text())
    del text["machine"]["workers"]
    file.write_text(json.dumps(text))
    assert results.read(file).machine.workers == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "nothing"), "--only nothing: no problem and no group has that in its name"),
        (("--models", "--only", "nothing"), "--only nothing: no model has that in its name"),
        (("--seconds", "0"), "--seconds 0 has to be more than 0"),
        (("--show", "/nowhere"), "--show /nowhere: there is no problems.json or models.json"),
    ],
)
def test_refusals(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    _, error = run("bench", *arguments, "--out", str(tmp_path), status=1)
    assert message in error


def test_a_file_that_is_no_run(tmp_path: Path) -> None:
    file = tmp_path / "problems.json"
    for text in ("", "[]", json.dumps({"results": []})):
        file.write_text(text)
        _, error = run("bench", "--show", str(tmp_path), status=1)
        assert f"{file} is no file of `iree-flashattn bench`" in error


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ("--only", "cross_77", "--out", str(tmp_path / "file" / "folder"))
    _, error = run("bench", *arguments, status=1)
    assert error == f"iree-flashattn: --out {tmp_path / 'file' / 'folder'}: Not a directory\n"
