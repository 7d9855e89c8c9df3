"""The runtime extension: CPU kernels for modules that import them by name
(compiled with ``IREE_FLASHATTN_CPU_LINK=plugin``).

On the command line:
``iree-run-module --executable_plugin=$(iree-flashattn info --runtime-plugin)``.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from . import resources

_DRIVERS = ("local-task", "local-sync")


def path() -> Path:
    """The plugin library. Raises ``MissingResourceError`` where the installation lacks it."""
    return resources.require(resources.native_dir() / "lib" / "libiree_flashattn_runtime.so")


def enable() -> None:
    """Makes IREE's CPU devices of this process resolve the kernels; call it before the first is
    made. Calling it again does nothing.

    Raises ``RuntimeError`` when a CPU driver of ``iree.runtime`` exists already: drivers read the
    list of plugins only once, when they are made.
    """
    from iree.runtime import _binding, flags

    library = path()
    loads = ctypes.CDLL(str(library)).iree_flashattn_runtime_loads
    if loads() > 0:
        return
    flags.parse_flags(f"--executable_plugin={library}")
    available = _binding.HalDriver.query()
    late = []
    for name in _DRIVERS:
        if name in available:
            before = loads()
            _binding.get_cached_hal_driver(name)
            if loads() == before:
                late.append(name)
    if late:
        raise RuntimeError(
            f"iree_flashattn.runtime.enable() came too late: the IREE driver {', '.join(late)}"
            " exists already in this process and has read its plugins; call enable() before the"
            " first device is made (before get_device, SystemContext or load_vm_module)"
        )
