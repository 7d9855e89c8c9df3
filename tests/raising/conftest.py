"""Raising small programs that are written op by op, and what is expected of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import numpy as np
import pytest
from iree.compiler import ir

from fuzzing.cases import Case
from fuzzing.evaluate import values_of
from fuzzing.net import Net, Val
from fuzzing.runner import compare
from iree_flashattn.raising import raise_sites
from iree_flashattn.refusal import Refusal
from iree_flashattn.site import AttentionSite

HEADS, ROWS, KEYS, DK, DV = 6, 5, 7, 8, 4


# (test, program) of each program that the tests of this folder have raised: test_that_they_run
# compiles them all as one module.
RAISED: list[tuple[str, Case]] = []


class Attention:
    """softmax(Q Kᵀ) V on [heads, rows, dim], one step a method, for tests to change a step."""

    def __init__(self) -> None:
        self.net = Net("main", np.random.default_rng(7))
        self.q = self.net.input((HEADS, ROWS, DK))
        self.k = self.net.input((HEADS, KEYS, DK))
        self.v = self.net.input((HEADS, KEYS, DV))

    def scores(self, q: Val | None = None, k: Val | None = None) -> Val:
        return self.net.batch_matmul(q or self.q, self.net.transpose(k or self.k, [0, 2, 1]))

    def exponentials(self, s: Val, dim: int = 2) -> Val:
        top = self.net.reduce(s, dim, "maximumf", False, -np.inf, index=True)
        others: list[int | None] = [d for d in range(3) if d != dim]
        return self.net.unary(self.net.binary(s, top, others, "subf"), "math.exp", np.exp)

    def softmax(self, s: Val, dim: int = 2) -> Val:
        e = self.exponentials(s, dim)
        total = self.net.reduce(e, dim, "addf", False, 0.0, index=False)
        return self.net.binary(e, total, [d for d in range(3) if d != dim], "divf")

    def values(self, p: Val) -> Val:
        return self.net.batch_matmul(p, self.v)

    def lse(self, s: Val, guarded: bool = False) -> Val:
        """max + log(sum(exp(s - max))); ``guarded``: with 0 in place of an infinite maximum."""
        net = self.net
        top = net.reduce(s, 2, "maximumf", False, -np.inf, index=False)
        if guarded:
            infinity, zero = net.scalar(np.inf), net.scalar(0.0)
            body = [
                "%a = math.absf %b0 : f32",
                f"%c = arith.cmpf oeq, %a, {infinity} : f32",
                f"%r = arith.select %c, {zero}, %b0 : f32",
            ]
            top = net.elementwise(
                [(top, [0, 1])], top.shape, body, "%r", lambda a: np.where(np.isinf(a), 0.0, a)
            )
        e = net.unary(net.binary(s, top, [0, 1], "subf"), "math.exp", np.exp)
        total = net.reduce(e, 2, "addf", False, 0.0, index=False)
        return net.binary(net.unary(total, "math.log", np.log), top, [0, 1], "addf")

    def raised(self, *results: Val) -> list[AttentionSite | Refusal]:
        """Raises the program and checks that each site means what the program computes."""
        text = "module {\n" + self.net.function(list(results)) + "}\n"
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            self.module = ir.Module.parse(text)
            found = raise_sites(self.module)
            known = values_of(self.module.body.operations[0].operation, self.net)
            for site in found:
                if isinstance(site, AttentionSite):
                    assert compare(site, known) == ""
        served = sum(isinstance(site, AttentionSite) for site in found)
        if served:
            net = copy.copy(self.net)
            net.name = f"case{len(RAISED)}"
            element = next((x.dtype for x in net.inputs if x.dtype in ("f16", "bf16")), "f32")
            case = Case(net, results[0], list(results), True, sites=served, element=element)
            RAISED.append((os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0], case))
        return found

    def site(self, *results: Val) -> AttentionSite:
        found = self.raised(*results)
        assert len(found) == 1
        assert isinstance(found[0], AttentionSite), str(found[0])
        return found[0]

    def refusal(self, *results: Val) -> Refusal:
        found = self.raised(*results)
        assert len(found) == 1
        assert isinstance(found[0], Refusal), found[0]
        return found[0]


@pytest.fixture
def attention() -> Attention:
    return Attention()


@pytest.fixture
def raise_text() -> Callable[[str], list[AttentionSite | Refusal]]:
    def run(text: str) -> list[AttentionSite | Refusal]:
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            return raise_sites(ir.Module.parse(text))

    return run
