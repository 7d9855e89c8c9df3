"""Attention as JAX and flax write it: dot_product_attention, einsum, modules, as StableHLO."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .exported import Exported, Generator

attend = jax.nn.dot_product_attention
CAUSAL = np.tril(np.ones((12, 12), bool))


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape, dtype=np.float32)


def export(function: Callable, inputs: list[np.ndarray], sites: int = 1) -> Exported:
    text = str(jax.jit(function).lower(*inputs).compiler_ir("stablehlo"))
    outputs = [np.asarray(x) for x in jax.tree.leaves(function(*inputs))]
    return Exported(text, "main", inputs, outputs, sites)


def _of(function: Callable, *more: np.ndarray, sites: int = 1, kv_heads: int = 4) -> Generator:
    """Of Q, K and V as (batch, length, heads, dim), and further inputs."""
    shapes = [(2, 12, 4, 16), (2, 12, kv_heads, 16), (2, 12, kv_heads, 16)]
    rng = np.random.default_rng(5)
    return lambda: export(
        function, [*(rng.standard_normal(s, dtype=np.float32) for s in shapes), *more], sites
    )


def scores(q, k):
    return jnp.einsum("bqhd,bkhd->bhqk", q, k) / 4.0


def values(p, v):
    return jnp.einsum("bhqk,bkhd->bqhd", p, v)


def einsum(q, k, v):
    return values(jax.nn.softmax(scores(q, k), axis=-1), v)


def softmax_where(q, k, v):
    return values(jax.nn.softmax(scores(q, k), where=CAUSAL), v)


def softcapped(q, k, v):
    s = 50.0 * jnp.tanh(scores(q, k) / 50.0)
    return values(jax.nn.softmax(jnp.where(CAUSAL, s, -2.3819763e38)), v)


def logsumexp(q, k, v):
    s = scores(q, k)
    return values(jnp.exp(s - jax.scipy.special.logsumexp(s, axis=-1, keepdims=True)), v)


def late_division(q, k, v):
    s = scores(q, k)
    e = jnp.exp(s - s.max(-1, keepdims=True))
    return values(e, v) / e.sum(-1).transpose(0, 2, 1)[..., None]


def never_divided_by_zero(q, k, v, keep):
    """As kernels are written in JAX: a row without keys has the maximum 0 and the sum 1."""
    s = jnp.where(keep, scores(q, k), -jnp.inf)
    top = s.max(-1, keepdims=True)
    e = jnp.exp(s - jnp.where(jnp.isfinite(top), top, 0.0))
    total = e.sum(-1, keepdims=True)
    return values(e / jnp.where(total == 0, 1.0, total), v)


def sinks(q, k, v, sink):
    column = jnp.broadcast_to(sink[None, :, None, None], (2, 4, 12, 1))
    p = jax.nn.softmax(jnp.concatenate([scores(q, k), column], -1))
    return values(p[..., :-1], v)


def weights(q, k, v):
    p = jax.nn.softmax(scores(q, k))
    return values(p, v), p


def cached(q, k, v, keys, rest, at):
    """A decoding step: the new keys and values go into a cache."""
    keys, rest = (jax.lax.dynamic_update_slice(c, x[:, :1], (0, at, 0, 0))
                  for c, x in ((keys, k), (rest, v)))  # fmt: skip
    return attend(q[:, :1], keys, rest, mask=(jnp.arange(20) <= at)[None, None, None])


def paged(q, keys, rest, pages):
    """Blocks of keys and values, in the order of a table."""
    k, v = (x[pages].reshape(2, 12, 4, 16) for x in (keys, rest))
    return values(jax.nn.softmax(scores(q, k)), v)


def dequantised(q, k, v, k_scale, v_scale):
    s = scores(q, k.astype(jnp.float32) * k_scale)
    return values(jax.nn.softmax(s), v.astype(jnp.float32) * v_scale)


def where_logsumexp(q, k, v, keep):
    s = scores(q, k)
    lse = jax.scipy.special.logsumexp(s, axis=-1, keepdims=True, where=keep)
    return values(jnp.where(keep, jnp.exp(s - lse), 0.0), v)


def pair_bias(x, project, gate, out, bias, mask):
    """AlphaFold's gated attention."""
    q, k, v = (jnp.einsum("bqa,ahc->bqhc", x, w) for w in project)
    s = jnp.einsum("bqhc,bkhc->bhqk", q * 8**-0.5, k)
    s = s + (1e9 * (mask - 1.0))[:, None, None, :] + bias[None]
    o = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(s), v)
    o = o * jax.nn.sigmoid(jnp.einsum("bqa,ahc->bqhc", x, gate))
    return jnp.einsum("bqhc,hco->bqo", o, out)


def slots(q, k, v):
    """Slot attention: the softmax over the slots, the mean over the inputs."""
    p = jax.nn.softmax(jnp.einsum("bsd,bnd->bns", q, k) / 4.0, axis=-1)
    return jnp.einsum("bns,bnd->bsd", p / p.sum(1, keepdims=True), v)


def single(q, k, v):
    return jax.nn.softmax(q @ k.T / 4.0) @ v


def mapped(q, k, v):
    heads = jax.vmap(single, in_axes=1, out_axes=1)
    return jax.vmap(heads)(q, k, v)


def layers(x, project, out):
    def layer(x, weights):
        q, k, v = jnp.split((x @ weights[0]).reshape(2, 12, 12, 16), 3, axis=2)
        return x + attend(q, k, v, is_causal=True).reshape(2, 12, 64) @ weights[1], None

    return jax.lax.scan(layer, x, (project, out))[0]


def squared(q, k, v):
    return values(jax.nn.softmax(scores(q, k)) ** 2, v)


def over_queries(q, k, v):
    return values(jax.nn.softmax(scores(q, k), axis=2), v)


def masked_after(q, k, v):
    return values(jnp.where(CAUSAL, jax.nn.softmax(scores(q, k)), 0.0), v)


def router(x, gate, experts):
    """A soft mixture of experts: softmax between two contractions, and no attention."""
    return jnp.einsum("te,etd->td", jax.nn.softmax(x @ gate), jnp.einsum("td,edf->etf", x, experts))


def flax_model(module: linen.Module, *inputs: np.ndarray, sites: int = 1) -> Generator:
    def make() -> Exported:
        parameters = module.init(jax.random.key(0), *inputs)
        return export(lambda *x: module.apply(parameters, *x), list(inputs), sites)

    return make


class Masked(linen.Module):
    """Causal and padding masks, combined by flax."""

    @linen.compact
    def __call__(self, x, lengths):
        real = jnp.arange(12)[None] < lengths[:, None]
        padding = linen.make_attention_mask(real, real)
        mask = linen.combine_masks(linen.make_causal_mask(real), padding)
        return linen.SelfAttention(num_heads=4, deterministic=True)(x, mask)


class Block(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        x = x + linen.SelfAttention(num_heads=4, deterministic=True)(linen.LayerNorm()(x))
        return x + linen.Dense(32)(linen.gelu(linen.Dense(64)(linen.LayerNorm()(x)))), None


class Stack(linen.Module):
    @linen.compact
    def __call__(self, x):
        scanned = linen.scan(
            Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return scanned()(x, None)[0]


def nnx_attention() -> Exported:
    module = nnx.MultiHeadAttention(
        num_heads=4, in_features=32, qkv_features=32, decode=False, rngs=nnx.Rngs(0)
    )
    graph, state = nnx.split(module)
    return export(lambda x: nnx.merge(graph, state)(x, deterministic=True), [numbers(2, 12, 32)])


KEEP = np.random.default_rng(6).random((2, 1, 12, 12)) < 0.7
ONE_ROW_EMPTY = KEEP & (np.arange(12) != 3)[:, None]
LENGTHS = np.array([7, 12], np.int32)
X = numbers(2, 12, 32)
MODELS: dict[str, Generator] = {
    "dot_product_attention": _of(attend),
    "causal": _of(lambda q, k, v: attend(q, k, v, is_causal=True)),
    "window": _of(lambda q, k, v: attend(q, k, v, local_window_size=(3, 0))),
    "two_sided_window": _of(lambda q, k, v: attend(q, k, v, local_window_size=3)),
    "bias": _of(lambda q, k, v, b: attend(q, k, v, bias=b), numbers(1, 4, 12, 12)),
    "bias_mask_causal": _of(
        lambda q, k, v, b, m: attend(q, k, v, bias=b, mask=m, is_causal=True),
        numbers(1, 4, 12, 12), KEEP,
    ),
    "key_lengths": _of(lambda q, k, v, n: attend(q, k, v, key_value_seq_lengths=n), LENGTHS),
    "both_lengths": _of(
        lambda q, k, v, n, m: attend(q, k, v, query_seq_lengths=m, key_value_seq_lengths=n),
        LENGTHS, LENGTHS[::-1].copy(),
    ),
    "window_lengths_bias": _of(
        lambda q, k, v, n, b: attend(
            q, k, v, bias=b, local_window_size=(4, 1), key_value_seq_lengths=n
        ),
        LENGTHS, numbers(1, 4, 12, 12),
    ),
    "residual": _of(lambda q, k, v: attend(q, k, v, return_residual=True)),
    "grouped": _of(attend, kv_heads=2),
    "grouped_mask": _of(lambda q, k, v, m: attend(q, k, v, mask=m), KEEP, kv_heads=2),
    "one_kv_head": _of(attend, kv_heads=1),
    "einsum": _of(einsum),
    "softmax_where": _of(softmax_where),
    "softcapped": _of(softcapped),
    "logsumexp": _of(logsumexp),
    "late_division": _of(late_division),
    "never_divided_by_zero": _of(never_divided_by_zero, ONE_ROW_EMPTY),
    "sinks": _of(sinks, numbers(4)),
    "weights": _of(weights),
    "cached": _of(cached, numbers(2, 20, 4, 16), numbers(2, 20, 4, 16), np.array(7, np.int32)),
    "paged": lambda: export(
        paged,
        [numbers(2, 1, 4, 16), numbers(6, 4, 4, 16), numbers(6, 4, 4, 16) / 2,
         np.array([[0, 3, 1], [5, 2, 4]], np.int32)],
    ),
    "dequantised": lambda: export(
        dequantised,
        [numbers(2, 12, 4, 16), *(2 * [(30 * numbers(2, 9, 4, 16)).astype(np.int8)]),
         *(2 * [np.full((2, 9, 4, 1), 0.02, np.float32)])],
    ),
    "where_logsumexp": _of(where_logsumexp, KEEP),
    "pair_bias": lambda: export(
        pair_bias,
        [numbers(3, 12, 32), numbers(3, 32, 4, 8) / 6, numbers(32, 4, 8) / 6, numbers(4, 8, 32),
         numbers(4, 12, 12), np.ones((3, 12), np.float32)],
    ),
    "slots": lambda: export(
        slots, [numbers(2, 5, 16), numbers(2, 12, 16), numbers(2, 12, 16) / 2], sites=0
    ),
    "mapped": _of(mapped),
    "checkpointed": _of(jax.checkpoint(einsum)),
    "layers": lambda: export(
        layers, [numbers(2, 12, 64), numbers(3, 64, 192) / 10, numbers(3, 64, 64) / 10]
    ),
    "linen": flax_model(
        linen.MultiHeadDotProductAttention(num_heads=4, deterministic=True), X, X
    ),
    "linen_normalised": flax_model(
        linen.MultiHeadDotProductAttention(num_heads=4, normalize_qk=True, deterministic=True), X
    ),
    "linen_masked": flax_model(Masked(), X, LENGTHS),
    "linen_scanned": flax_model(Stack(), X),
    "nnx": nnx_attention,
    "squared": _of(squared, sites=0),
    "over_queries": _of(over_queries, sites=0),
    "masked_after": _of(masked_after, sites=0),
    "router": lambda: export(
        router, [numbers(9, 16), numbers(16, 4), numbers(4, 16, 16)], sites=0
    ),
}  # fmt: skip
