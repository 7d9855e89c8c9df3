"""Emit: executables with the chosen kernels and dispatches in place of the sites."""

from .emit import CannotBuildError, Replaced, emit
from .executables import Executables

__all__ = ["CannotBuildError", "Executables", "Replaced", "emit"]
