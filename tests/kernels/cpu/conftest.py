from __future__ import annotations

import sys
from pathlib import Path

# The helpers beside the tests (cpu_native, cpu_cases), whatever pytest's import mode is.
sys.path.insert(0, str(Path(__file__).parent))
