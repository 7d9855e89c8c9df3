from __future__ import annotations

import sys
from pathlib import Path

# The helpers beside the tests, and the error rule, which is the CPU kernels' (cpu_cases).
here = Path(__file__).parent
sys.path[:0] = [str(here), str(here.parent / "cpu")]
