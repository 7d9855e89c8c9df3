"""A step of decoding with a cache, compiled with the flag and run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from iree_flashattn import oracle
from iree_flashattn.bench import running
from support import caches


def inputs(batch: int, keys: int, values: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = [(batch, 4, 1, 16), *(2 * [(batch, 2, 1, 16)])]
    shapes += [(batch, 2, keys, 16), (batch, 2, values, 16)]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


@pytest.mark.parametrize(("batch_of_v", "keys_of_v"), [("%b", "%m"), ("%b", "%n")])
def test_repeated_heads(batch_of_v: str, keys_of_v: str, compile_served: Callable) -> None:
    function = running.load(compile_served(caches.module(batch_of_v, keys_of_v)).vmfb)
    q, k1, v1, k0, v0 = inputs(3, 9, 9)
    k, v = np.concatenate([k0, k1], 2), np.concatenate([v0, v1], 2)
    expected = oracle.attention(q, k, v, scale=0.25).out
    result = running.to_float(function(q, k1, v1, k0, v0))
    np.testing.assert_allclose(result, expected.reshape(12, 1, 16), atol=3e-6)


def test_more_keys_than_values(compile_served: Callable) -> None:
    function = running.load(compile_served(caches.module()).vmfb)
    with pytest.raises(RuntimeError, match="iree-flashattn: "):
        function(*inputs(3, 9, 8))
