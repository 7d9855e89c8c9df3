"""Compiled modules on the local-task device, and fair timing of several contenders."""

from __future__ import annotations

import atexit
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


@cache
def configuration(driver: str = "local-task") -> Any:
    import iree.runtime

    # The device has to go before the interpreter takes the runtime's modules apart.
    atexit.register(_release)
    return iree.runtime.Config(driver)


def _release() -> None:
    configuration.cache_clear()
    gc.collect()


def load_all(vmfb: bytes, driver: str = "local-task") -> Any:
    """A compiled module; ``module["function"]`` takes arrays or device arrays."""
    import iree.runtime as rt

    config = configuration(driver)
    context = rt.SystemContext(config=config)
    context.add_vm_module(rt.VmModule.copy_buffer(context.instance, vmfb))
    (name,) = [n for n in context.modules if n != "hal"]
    return context.modules[name]


def load(
    vmfb: bytes, function: str = "attention", driver: str = "local-task"
) -> Callable[..., Any]:
    """One function of a compiled module."""
    return load_all(vmfb)[function]


def on_device(array: NDArray) -> Any:
    import iree.runtime as rt

    return rt.asdevicearray(configuration().device, array)


def to_float(result: Any) -> NDArray[np.float64]:
    return np.asarray(result.to_host()).astype(np.float64)


def interleaved(
    contenders: Mapping[str, Callable[[], object]], seconds: float = 1.0, least: int = 3
) -> dict[str, list[float]]:
    """Times of each contender in seconds, taken in rounds so that all see the same machine.

    A contender stops taking part when it has used its share of ``seconds`` and has ``least`` times.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    share = seconds / max(1, len(contenders))
    running = dict(contenders)
    while running:
        for name, call in list(running.items()):
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
            if sum(times[name]) >= share and len(times[name]) >= least:
                del running[name]
    return times


def median(values: Sequence[float]) -> float:
    return float(np.median(values))
