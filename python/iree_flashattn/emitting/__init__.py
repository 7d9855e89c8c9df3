"""Emit: executables with the chosen kernels and dispatches in place of the sites."""

from .emit import emit
from .executables import Executables

__all__ = ["Executables", "emit"]
