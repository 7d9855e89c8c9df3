"""Caches of run-time batch and length, whose heads are repeated."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from iree_flashattn.site import AttentionSite
from support import caches


@pytest.mark.parametrize("keys_of_v", ["%n", "%m"])
@pytest.mark.parametrize("batch_of_v", ["%b", "%bv"])
def test_repeated_heads(raise_text: Callable, batch_of_v: str, keys_of_v: str) -> None:
    """n + 1 keys and m + 1 values are as many where n is m. Where nothing but a product of two
    sizes is known to be equal, K and V are read as they were repeated."""
    (site,) = raise_text(caches.module(batch_of_v, keys_of_v))
    assert isinstance(site, AttentionSite)
    apart = (batch_of_v, keys_of_v) == ("%b", "%n")
    assert site.q_len == (1 if apart else 2)  # the heads of a group are rows
    assert site.equal
