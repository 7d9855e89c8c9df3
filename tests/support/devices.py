"""Devices of the stock runtime other than the CPU: modules on them, and what they return."""

from __future__ import annotations

import atexit
import gc
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


@cache
def why_no_vulkan() -> str:
    """Empty where a Vulkan device can be opened, otherwise the reason."""
    try:
        import iree.runtime as rt

        devices = rt.get_driver("vulkan").query_available_devices()
    except Exception as error:  # whatever a missing loader or driver raises
        return f"no Vulkan driver (Debian: mesa-vulkan-drivers): {str(error).splitlines()[0]}"
    return "" if devices else "no Vulkan device (Debian: mesa-vulkan-drivers)"


@cache
def configuration(name: str) -> Any:
    """The first device of a driver: ``vulkan``, ``cuda``."""
    import iree.runtime as rt

    atexit.register(release)
    return rt.Config(device=rt.get_device(name, cache=False))


def release() -> None:
    """Lets go of the devices. They have to go before the interpreter takes the runtime apart, and
    before other tests: on Mesa's lavapipe two threads of an open device wait for work in a loop and
    take all the time that processors have.
    """
    configuration.cache_clear()
    gc.collect()


def load_all(vmfb: bytes, name: str) -> Any:
    """A compiled module on that device; ``module["function"]`` takes arrays."""
    import iree.runtime as rt

    context = rt.SystemContext(config=configuration(name))
    context.add_vm_module(rt.VmModule.copy_buffer(context.instance, vmfb))
    (module,) = [n for n in context.modules if n != "hal"]
    return context.modules[module]


def download(device: Any, view: Any, dtype: Any) -> NDArray:
    """A copy on the host, through a staging buffer.

    ``DeviceArray.to_host`` of iree-base-runtime 3.13.0 imports host memory without regard for
    Vulkan's alignment rule and fails; this can go when it does not.
    """
    import iree.runtime as rt

    source = view.get_buffer()
    size = source.byte_length()
    staging = device.allocator.allocate_buffer(
        memory_type=int(rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE),
        allowed_usage=int(rt.BufferUsage.TRANSFER_TARGET | rt.BufferUsage.MAPPING_SCOPED),
        allocation_size=size,
    )
    done = device.create_semaphore(0)
    device.queue_copy(
        source,
        staging,
        wait_semaphores=rt.HalFence.create_at(done, 0),
        signal_semaphores=rt.HalFence.create_at(done, 1),
    )
    rt.HalFence.create_at(done, 1).wait()
    return staging.map().asarray((size,), np.dtype(np.uint8)).copy().view(dtype)
