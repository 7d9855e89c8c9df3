from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The helpers beside the tests, and the error rule, which is the CPU kernels' (cpu_cases).
here = Path(__file__).parent
sys.path[:0] = [str(here), str(here.parent / "cpu")]


@pytest.fixture(scope="module", autouse=True)
def device_of_the_module() -> Iterator[None]:
    """The tests of a module share the device, and those of other modules are rid of it."""
    import spirv_device

    yield
    spirv_device.release()
