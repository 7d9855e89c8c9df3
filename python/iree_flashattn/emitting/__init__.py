"""Emit: executables with the chosen kernels and dispatches in place of the sites."""

from .emit import CannotBuildError, emit, replace_uses
from .executables import Executables

__all__ = ["CannotBuildError", "Executables", "emit", "replace_uses"]
