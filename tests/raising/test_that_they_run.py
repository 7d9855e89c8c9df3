"""Every program that the other tests of this folder have raised is compiled with the flag and run.

They are functions of one module; NumPy's float64 says what is right. The file's name puts it last.
"""

from __future__ import annotations

from fuzzing.compiled import both_ways, difference

from .conftest import RAISED, Attention


def test_weights_of_one_query_and_many_keys(attention: Attention) -> None:
    """Not cut into ranges of keys: nothing would write the weights."""
    net = attention.net
    attention.q, attention.k = net.input((2, 1, 8)), net.input((2, 1100, 8))
    attention.v = net.input((2, 1100, 4))
    p = attention.softmax(attention.scores())
    assert attention.site(attention.values(p), p).weights is not None


def test_all_of_them() -> None:
    assert RAISED
    cases = [case for _, case in RAISED]
    sites = {case.net.name: case.sites for case in cases}
    ours, stock = both_ways(cases, sites)
    wrong = []
    for test, case in RAISED:
        name = case.net.name
        if name in ours.errors:
            if name not in stock.errors:
                wrong.append(f"{test}: {ours.errors[name]}")
            continue
        if ours.matched.get(name, 0) != case.sites:
            wrong.append(f"{test}: {ours.matched.get(name, 0)} of {case.sites} substituted:"
                         f" {ours.refused.get(name)}")  # fmt: skip
        if problem := difference(case, ours.results[name], stock.results.get(name)):
            wrong.append(f"{test}: {problem}")
    assert not wrong, "\n".join(wrong)
    assert len(ours.results) > 0.9 * len(cases), ours.errors
