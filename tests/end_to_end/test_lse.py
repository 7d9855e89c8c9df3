"""The log-sum-exp as a result, through the stock compiler and runtime, against float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from iree.turbine import aot

from iree_flashattn.bench import running
from support.accuracy import TINY, largest_error
from support.torch_models import BF16, ELEMENT, F16, F32, Function, qkv, tensors, to_array


def scores(q, k):
    return q @ k.transpose(-1, -2) * 0.25


def log_sum_exp(s):
    """What torch.logsumexp is made of (no export of it reaches IREE)."""
    m = s.amax(-1, keepdim=True)
    m = torch.where(m.abs() == float("inf"), 0.0, m)
    return torch.log(torch.exp(s - m).sum(-1, keepdim=True)) + m


def logsumexp(q, k, v):
    s = scores(q, k)
    return torch.softmax(s, -1) @ v, log_sum_exp(s).squeeze(-1)


def by_hand(q, k, v):
    s = scores(q, k)
    m = s.amax(-1, keepdim=True)
    e = torch.exp(s - m)
    total = e.sum(-1, keepdim=True)
    return (e @ v) / total, (m + torch.log(total)).squeeze(-1)


def normalised_by_it(q, k, v):
    s = scores(q, k)
    lse = log_sum_exp(s)
    return torch.exp(s - lse) @ v, lse


def in_f32(q, k, v):
    """As 16-bit models write it: scores in f32, P rounded before the product with V."""
    s = scores(q, k).float()
    return torch.softmax(s, -1).to(q.dtype) @ v, log_sum_exp(s)


def causal(q, k, v):
    s = scores(q, k)
    keep = torch.ones(s.shape[-2:], dtype=torch.bool).tril()
    s = s.masked_fill(~keep, float("-inf"))
    return torch.softmax(s, -1) @ v, log_sum_exp(s)


def merged(q, k, v):
    """Ring attention: two blocks of keys, merged by their LSE."""
    (k1, k2), (v1, v2) = k.chunk(2, 2), v.chunk(2, 2)
    (o1, l1), (o2, l2) = logsumexp(q, k1, v1), by_hand(q, k2, v2)
    both = torch.logaddexp(l1, l2)
    return (
        o1 * torch.exp(l1 - both)[..., None] + o2 * torch.exp(l2 - both)[..., None],
        both,
    )


CASES = [
    ("logsumexp", logsumexp, qkv(2, 3, 33, 40), F32, "fa_forward", 1),
    ("by_hand", by_hand, qkv(1, 2, 37, 24, keys=53, dv=16), F32, "fa_forward", 1),
    ("normalised_by_it", normalised_by_it, qkv(2, 2, 30, 16), F32, "fa_forward", 1),
    ("causal", causal, qkv(1, 2, 45, 32), F32, "fa_forward", 1),
    ("f16", in_f32, qkv(1, 2, 40, 64), F16, "fa_forward", 1),
    ("bf16", in_f32, qkv(1, 2, 40, 64), BF16, "fa_forward", 1),
    ("decode", logsumexp, qkv(1, 2, 1, 64, keys=1024), F32, "fa_partial", 1),
    ("merged", merged, qkv(1, 2, 30, 16, keys=40), F32, "fa_forward", 2),
]


def export(function: Callable, arguments: list[torch.Tensor], dynamic=None) -> bytes:
    exported = torch.export.export(Function(function), tuple(arguments), dynamic_shapes=dynamic)
    return str(aot.export(exported).mlir_module).encode()


def check(done, function: Callable, arguments: list[torch.Tensor]) -> None:
    results = running.load(done.vmfb, "main")(*(to_array(x) for x in arguments))
    theirs, exact = function(*arguments), function(*(x.double() for x in arguments))
    for ours, torch_result, reference in zip(results, theirs, exact, strict=True):
        reference = reference.numpy()
        limit = 2 * largest_error(torch_result.double().numpy(), reference)
        element = ELEMENT[arguments[0].dtype]
        limit += TINY[element] * max(1.0, np.abs(reference).max(initial=0))
        assert largest_error(running.to_float(ours), reference) <= limit


@pytest.mark.parametrize(
    ("function", "shapes", "dtype", "kernel", "sites"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_export(function, shapes, dtype, kernel, sites, compile_served: Callable) -> None:
    torch.manual_seed(np.random.SeedSequence().entropy % 2**32)
    arguments = tensors(shapes, dtype)
    done = compile_served(export(function, arguments), sites=sites)
    for site in done.sites:
        assert site["lse"] is True
        assert site["kernel"].startswith(kernel)
    check(done, function, arguments)


def test_run_time_sizes(compile_served: Callable) -> None:
    dim = torch.export.Dim("s", min=2, max=4096)
    dynamic = {"arguments": tuple({2: dim} for _ in range(3))}
    done = compile_served(export(logsumexp, tensors(qkv(1, 2, 16, 32), F32), dynamic))
    assert done.sites[0]["lse"] is True
    for size in (2, 17, 200):
        check(done, logsumexp, tensors(qkv(1, 2, size, 32), F32))


@pytest.mark.parametrize("guarded", [True, False], ids=["logsumexp", "by_hand"])
def test_rows_without_keys(guarded: bool, compile_served: Callable) -> None:
    """-inf from logsumexp, NaN where -inf is subtracted from -inf, as without the plugin."""

    def masked(q, k, v, mask):
        s = scores(q, k).masked_fill(mask > 0, float("-inf"))
        m = s.amax(-1, keepdim=True)
        lse = m + torch.log(torch.exp(s - m).sum(-1, keepdim=True))
        return torch.softmax(s, -1) @ v, log_sum_exp(s) if guarded else lse

    arguments = [*tensors(qkv(1, 2, 9, 16), F32), -torch.ones(1, 1, 9, 9)]
    arguments[3][0, 0, 4] = 1.0
    arguments[3][0, 0, 5, :8] = 1.0
    done = compile_served(export(masked, arguments))
    assert done.sites[0]["lse"] is True
    out, lse = running.load(done.vmfb, "main")(*(to_array(x) for x in arguments))
    expected = masked(*arguments)
    np.testing.assert_allclose(running.to_float(out), expected[0].numpy(), atol=2e-6)
    np.testing.assert_allclose(running.to_float(lse), expected[1].numpy(), atol=2e-6)
    assert (np.isneginf if guarded else np.isnan)(running.to_float(lse)[:, :, 4]).all()


def test_maximum_and_sum_stay_with_stock_code(compile_served: Callable) -> None:
    """Two results from which an LSE could be made are not one."""

    def parts(q, k, v):
        s = scores(q, k)
        m = s.amax(-1, keepdim=True)
        e = torch.exp(s - m)
        return (e @ v) / e.sum(-1, keepdim=True), m, e.sum(-1)

    arguments = tensors(qkv(1, 2, 20, 16), F32)
    done = compile_served(export(parts, arguments))
    assert done.sites[0]["lse"] is False
    check(done, parts, arguments)
