"""The cost gate: where stock code generation would be faster, decline and say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..site import AttentionSite
    from ..target import Target
    from .choice import Choice


def stock_wins(site: AttentionSite, target: Target, choice: Choice) -> str | None:
    """The reason why stock code is faster for this site, or None."""
    return None
