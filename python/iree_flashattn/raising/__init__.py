"""Raising: from IR around a softmax to an AttentionSite, by what the IR means."""

from __future__ import annotations

from .sites import raise_sites

__all__ = ["raise_sites"]
