"""What was substituted and why the rest was not: for the user, as JSON and as an exception."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .refusal import Refusal

if TYPE_CHECKING:
    from .site import AttentionSite, View


class UserError(RuntimeError):
    """A message for the person who compiles, shown without a traceback."""

    for_user = True


class UnservedSiteError(UserError):
    """IREE_FLASHATTN_STRICT=1 and a site was left to stock code generation."""


@dataclass
class SiteReport:
    location: str
    matched: bool
    kernel: str = ""
    reason: str = ""
    rule: str = ""
    subject: str = ""
    spelling: str = ""
    trail: list[str] = field(default_factory=list)
    description: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        own = {k: v for k, v in vars(self).items() if k != "description"}
        return own | self.description


@dataclass
class Report:
    sites: list[SiteReport] = field(default_factory=list)

    @property
    def matched(self) -> int:
        return sum(site.matched for site in self.sites)

    def write(self, path: str | Path) -> None:
        """JSON: an object with ``sites``. Raises UserError, naming the path, where it cannot."""
        text = json.dumps({"sites": [site.as_json() for site in self.sites]}, indent=2) + "\n"
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"iree-flashattn: the report {str(path)!r} (IREE_FLASHATTN_REPORT) cannot be"
                f" written: {error.strerror}; name a file in a folder that can be written to"
            ) from error

    def require_all(self) -> None:
        """Raises UnservedSiteError, with every unserved site and its reason, if there is one."""
        unserved = [site for site in self.sites if not site.matched]
        if unserved:
            lines = [f"  {s.location}: {s.rule}: {s.reason} {s.subject}".rstrip() for s in unserved]
            raise UnservedSiteError(
                f"iree-flashattn: IREE_FLASHATTN_STRICT=1 and {len(unserved)} of"
                f" {len(self.sites)} attention sites are not served:\n" + "\n".join(lines)
            )


def readable(location: str) -> str:
    """``file:line:column`` out of an MLIR location, which may be nested; else as it is."""
    found = re.search(r'"([^"]+)":(\d+):(\d+)', location)
    if found:
        return ":".join(found.groups())
    found = re.search(r'"([^"]+)"', location)
    return found[1] if found else location


def of_refusal(refusal: Refusal, site: AttentionSite | None = None) -> SiteReport:
    return SiteReport(
        readable(refusal.location),
        False,
        reason=refusal.reason,
        rule=refusal.rule,
        subject=refusal.subject,
        spelling=refusal.spelling or (site.spelling if site else ""),
        description=describe(site) if site else {},
        trail=list(refusal.trail),
    )


def describe(site: AttentionSite) -> dict[str, Any]:
    """The site in plain JSON values; sizes known only at run time are strings."""

    def size(extent: Any) -> int | str:
        return repr(extent) if extent.static is None else extent.static

    def strides(view: View) -> list[int | str]:
        return [size(stride) for stride in view.strides]

    found: dict[str, Any] = {
        name: size(getattr(site, name))
        for name in ("batch", "heads", "kv_heads", "q_len", "kv_len", "dk", "dv")
    }
    found["dtype"] = site.q.dtype
    found["scale"] = site.scale if isinstance(site.scale, float | int) else "run time"
    found["mask"] = mask_of(site)
    if site.softcap is not None:
        found["softcap"] = site.softcap
    found["sinks"] = site.sinks is not None
    found["weights"] = site.weights is not None
    found["lse"] = site.lse is not None
    found["empty_row"] = site.empty_row
    found["strides"] = {name: strides(getattr(site, name)) for name in ("q", "k", "v", "out")}
    return found


def mask_of(site: AttentionSite) -> str:
    """``none``, or what decides which keys a row sees, e.g. ``causal + boolean``."""
    parts = []
    if not site.band.open:
        parts.append(_band(site))
    if site.mask is not None:
        parts.append("boolean")
    if site.bias is not None:
        parts.append("additive")
    return " + ".join(parts) or "none"


def _band(site: AttentionSite) -> str:
    low, high = site.band.lo, site.band.hi
    if low is not None:
        return f"window {low!r} to {high!r}" if high is not None else f"window from {low!r}"
    if high == 0:
        return "causal"
    if high == site.kv_len - site.q_len:
        return "causal (bottom-right)"
    return f"causal ({high!r})"
