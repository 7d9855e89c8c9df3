"""Why a site is left to the stock compiler: the one shape of every "no"."""

from __future__ import annotations

import traceback
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """``rule`` refused the candidate at ``location``; ``subject`` is the op or value at fault.

    ``reason`` is a sentence for the user: what is there, what would be served, the way out.
    """

    location: str
    rule: str
    reason: str
    subject: str = ""
    spelling: str = ""
    trail: tuple[str, ...] = ()  # how far each rule of raising got

    def __str__(self) -> str:
        return f"{self.rule}: {self.reason}" + (f" [{self.subject}]" if self.subject else "")


def of_bug(location: str, error: Exception, spelling: str = "") -> Refusal:
    """This package failed at the candidate, before it changed anything: the stock path works."""
    reason = f"a bug in iree-flashattn, which its developers want to hear of: {error!r}"
    trace = "".join(traceback.format_exception(error)).rstrip().splitlines()
    return Refusal(location, "bug", reason, spelling=spelling, trail=tuple(trace))
