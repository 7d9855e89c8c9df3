"""What a generator of models hands to the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Exported:
    """A model as its front end exports it, an input, and the framework's own results."""

    mlir: str
    entry: str
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    sites: int


Generator = Callable[[], Exported]
