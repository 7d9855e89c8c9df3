"""A fault of this package before anything is emitted: the module stays as it is."""

from __future__ import annotations

import pytest

from iree_flashattn import rewrite
from iree_flashattn.report import UserError


def test_a_fault_in_choosing_leaves_the_site_to_stock_code(bench, monkeypatch):
    def failing(*_):
        raise KeyError("tile")

    monkeypatch.setattr(rewrite, "choose", failing)
    module = bench.attention()
    before = str(module)
    (site,) = bench.substitute(module).sites
    assert (site.matched, site.rule) == (False, "bug")
    assert "KeyError('tile')" in site.reason
    assert any("in failing" in line for line in site.trail)
    assert str(module) == before


def test_what_the_user_can_mend_is_an_error(bench, monkeypatch):
    def failing(*_):
        raise UserError("reinstall")

    monkeypatch.setattr(rewrite, "choose", failing)
    with pytest.raises(UserError, match="reinstall"):
        bench.substitute(bench.attention())
