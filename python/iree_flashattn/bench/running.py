"""Compiled modules on the local-task device, and fair timing of several contenders."""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import runtime

# A turn of a contender: short calls are repeated until it is this long, so that the cold cache
# which the one before left behind weighs little.
TURN_SECONDS = 0.02
# Between turns: OpenMP's threads spin for a while in the hope of more work.
PAUSE_SECONDS = 0.004
# Of calls that take longer one is enough, and the first one will do: nothing that a call has to
# warm up takes as long.
LONG_SECONDS = 1.0

_default_workers = 0  # 0: as many as IREE takes by itself
_extension = False  # modules import their kernels from the runtime extension


def use_workers(count: int) -> None:
    """Workers of devices made from here on without a number, and threads of PyTorch."""
    global _default_workers
    _default_workers = count
    configuration.cache_clear()
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(count)


def default_workers() -> int:
    return _default_workers


def yield_to_workers() -> None:
    """Schedules the calling thread as a batch job (on Linux): it does not preempt who wakes it.

    In IREE 3.13 a worker wakes the caller and has then one more word to write, for which the caller
    waits in a loop. Where the caller wakes on the worker's own core, it preempts the worker and
    spins for its whole time slice.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def yields_to_workers() -> bool:
    return hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_BATCH


def use_extension() -> None:
    """Modules compiled from here on import their kernels, AMX among them, from the runtime
    extension. Raises RuntimeError where a CPU device exists already."""
    global _extension
    runtime.enable()
    _extension = True


def uses_extension() -> bool:
    return _extension


def link_options() -> dict[str, str]:
    """Options of a compilation whose module is run here."""
    return {"IREE_FLASHATTN_CPU_LINK": "plugin"} if _extension else {}


@cache
def configuration(workers: int = 0) -> Any:
    """A local-task device with that many workers; 0: the default."""
    import iree.runtime as rt
    from iree.runtime import _binding

    # The device has to go before the interpreter takes the runtime's modules apart.
    atexit.register(_release)
    workers = workers or _default_workers
    if not workers:
        return rt.Config("local-task")
    # The flag is the process's; a driver reads it when it is made.
    rt.flags.parse_flags(f"--task_topology_group_count={workers}")
    try:
        driver = _binding.create_hal_driver("local-task")
        return rt.Config(device=driver.create_default_device())
    finally:
        rt.flags.parse_flags("--task_topology_group_count=0")


def _release() -> None:
    configuration.cache_clear()
    gc.collect()


def load_all(vmfb: bytes, workers: int = 0, parameters: Path | None = None) -> Any:
    """A compiled module; ``module["function"]`` takes arrays or device arrays.

    ``parameters``: a file of weights, for modules that read them from the scope ``model``.
    """
    import iree.runtime as rt

    config = configuration(workers)
    context = rt.SystemContext(config=config)
    if parameters is not None:
        index = rt.ParameterIndex()
        index.load(str(parameters))
        provider = index.create_provider(scope="model")
        context.add_vm_module(rt.create_io_parameters_module(context.instance, provider))
    context.add_vm_module(rt.VmModule.copy_buffer(context.instance, vmfb))
    (name,) = [n for n in context.modules if n not in ("hal", "io_parameters")]
    return context.modules[name]


def load(vmfb: bytes, function: str = "attention", workers: int = 0) -> Callable[..., Any]:
    """One function of a compiled module."""
    return load_all(vmfb, workers)[function]


def on_device(array: NDArray, workers: int = 0) -> Any:
    import iree.runtime as rt

    return rt.asdevicearray(configuration(workers).device, array)


def to_float(result: Any) -> NDArray[np.float64]:
    return np.asarray(result.to_host()).astype(np.float64)


def interleaved(
    contenders: Mapping[str, Callable[[], object]], seconds: float = 1.0, least: int = 3
) -> dict[str, list[float]]:
    """Seconds a call of each contender, one number a round: all see the same machine in a round.

    A contender stops taking part when it has used its share of ``seconds`` and has ``least``
    numbers; one is enough where a call takes longer than a second.
    """
    times: dict[str, list[float]] = {}
    calls: dict[str, int] = {}
    for name, call in contenders.items():
        first = _timed(call)
        times[name] = [first] if first > LONG_SECONDS else []
        again = first if first > LONG_SECONDS else _timed(call)
        calls[name] = max(1, round(TURN_SECONDS / max(again, 1e-7)))
    share = seconds / max(1, len(contenders))
    used = {name: sum(found) for name, found in times.items()}
    running = {name: c for name, c in contenders.items() if not times[name] or used[name] < share}
    while running:
        for name, call in list(running.items()):
            time.sleep(PAUSE_SECONDS)
            turn = _timed(call, calls[name])
            times[name].append(turn / calls[name])
            used[name] += turn
            enough = 1 if times[name][0] > LONG_SECONDS else least
            if used[name] >= share and len(times[name]) >= enough:
                del running[name]
    return times


def _timed(call: Callable[[], object], count: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def ratio(times: Mapping[str, Sequence[float]], of: str, to: str) -> float:
    """How many times longer ``of`` took than ``to``: the median over rounds that both were in."""
    return median([a / b for a, b in zip(times[of], times[to], strict=False)])
