"""Choose: from a site and a target to kernels, or a refusal. Pure functions, no IR is touched."""

from .choice import Choice, Options
from .choose import choose

__all__ = ["Choice", "Options", "choose"]
