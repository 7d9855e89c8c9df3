"""Attention as JAX writes it: dot_product_attention and einsum, as StableHLO."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .exported import Exported, Generator


def _of(function, sites: int = 1, kv_heads: int = 4) -> Generator:
    def make() -> Exported:
        rng = np.random.default_rng(5)
        shapes = [(2, 12, 4, 16), (2, 12, kv_heads, 16), (2, 12, kv_heads, 16)]
        inputs = [rng.standard_normal(s, dtype=np.float32) for s in shapes]
        text = str(jax.jit(function).lower(*inputs).compiler_ir("stablehlo"))
        return Exported(text, "main", inputs, [np.asarray(function(*inputs))], sites)

    return make


def einsum(q, k, v):
    s = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 4.0
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(s, axis=-1), v)


def mixed_heads(q, k, v):
    p = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", p * p, v)


MODELS: dict[str, Generator] = {
    "dot_product_attention": _of(jax.nn.dot_product_attention),
    "causal": _of(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True)),
    "window": _of(
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v, local_window_size=(3, 0))
    ),
    "grouped": _of(jax.nn.dot_product_attention, kv_heads=2),
    "einsum": _of(einsum),
    "squared": _of(mixed_heads, sites=0),
}
