"""Axes: whatever reshapes and transposes do, operands are read where they lie."""

from __future__ import annotations

import numpy as np

from fuzzing.net import Net, Val
from iree_flashattn.site import AttentionSite

from .conftest import HEADS, KEYS, ROWS, Attention


def test_transposed_and_merged_heads(attention: Attention) -> None:
    """[rows, heads * dim] in and out, as after a projection."""
    net = attention.net = Net("main", np.random.default_rng(3))
    x = [net.input((n, HEADS * d)) for n, d in ((ROWS, 8), (KEYS, 8), (KEYS, 4))]
    split = [
        net.transpose(net.reshape(t, [[0], [1, 2]], (t.shape[0], HEADS, t.shape[1] // HEADS)),
                      [1, 0, 2], generic=i == 1)
        for i, t in enumerate(x)
    ]  # fmt: skip
    attention.q, attention.k, attention.v = split
    o = attention.values(attention.softmax(attention.scores()))
    o = net.reshape(net.transpose(o, [1, 0, 2]), [[0], [1, 2]], (ROWS, HEADS * 4))
    site = attention.site(o)
    assert site.q.strides == (0, 8, HEADS * 8, 1)
    assert site.v.strides == (0, 4, HEADS * 4, 1)
    assert site.out.strides == (0, 4, HEADS * 4, 1)


def test_many_moves_before_the_product_with_v(attention: Attention) -> None:
    net = attention.net
    p = attention.softmax(attention.scores())
    for turn in range(6):
        p = net.transpose(p, [0, 2, 1], generic=turn % 2 == 1)
        p = net.transpose(p, [1, 0, 2])
        p = net.transpose(p, [1, 0, 2])
        p = net.transpose(p, [0, 2, 1])
    site = attention.site(attention.values(p))
    assert site.out.strides == (0, ROWS * 4, 4, 1)


def test_packed_projection_is_read_in_place(attention: Attention) -> None:
    net = attention.net = Net("main", np.random.default_rng(3))
    packed = net.input((ROWS, 3 * HEADS * 8))
    parts = []
    for i in range(3):
        t = net.slice(packed, 1, i * HEADS * 8, HEADS * 8)
        t = net.reshape(t, [[0], [1, 2]], (ROWS, HEADS, 8))
        parts.append(net.transpose(t, [1, 0, 2]))
    attention.q, attention.k, attention.v = parts
    site = attention.site(attention.values(attention.softmax(attention.scores())))
    assert [int(v.offset) for v in (site.q, site.k, site.v)] == [0, HEADS * 8, 2 * HEADS * 8]
    assert site.q.value == site.k.value == site.v.value


def test_keys_over_two_dims_of_an_image(attention: Attention) -> None:
    """K is read through a reshape that splits the key axis: image attention after a convolution."""
    net = attention.net
    attention.k = net.reshape(net.input((HEADS, 2, 4, 8)), [[0], [1, 2], [3]], (HEADS, 8, 8))
    attention.v = net.input((HEADS, 8, 4))
    site = attention.site(attention.values(attention.softmax(attention.scores())))
    assert (site.kv_len, site.k.strides) == (8, (0, 64, 8, 1))


def test_keys_backwards_are_copied(attention: Attention) -> None:
    """A flip is a stride that no kernel has."""
    net = attention.net
    last = net.scalar(KEYS - 1, "index")
    body = [
        "%i = linalg.index 0 : index", "%j = linalg.index 1 : index",
        "%d = linalg.index 2 : index", f"%k = arith.subi {last}, %j : index",
        f"%r = tensor.extract {attention.k.name}[%i, %k, %d] : {attention.k.type}",
    ]  # fmt: skip
    k = attention.k.array
    flipped = net.elementwise([], k.shape, body, "%r", lambda: k[:, ::-1])
    site = attention.site(attention.values(attention.softmax(attention.scores(k=flipped))))
    assert int(site.k.strides[2]) > 0


def test_experts_behind_a_router_are_no_attention(attention: Attention) -> None:
    """softmax(x W) over experts, which each have a result for each x"""
    net = attention.net
    x, w, experts = net.input((ROWS, 8)), net.input((8, KEYS)), net.input((ROWS, KEYS, 4))
    s = net.contract(x, [0, 2], w, [2, 1], [0, 1], {0: ROWS, 1: KEYS, 2: 8})
    p = net.reshape(attention.softmax(net.reshape(s, [[0, 1], [2]], (1, ROWS, KEYS))),
                    [[0, 1], [2]], (ROWS, KEYS))  # fmt: skip
    o = net.contract(p, [0, 2], experts, [0, 2, 1], [0, 1], {0: ROWS, 1: 4, 2: KEYS})
    assert attention.raised(o) == []


def test_scores_mixed_over_heads(attention: Attention) -> None:
    """talking heads"""
    net = attention.net
    mix = net.input((HEADS, HEADS))
    sizes = {0: HEADS, 1: ROWS, 2: KEYS, 3: HEADS}
    s = net.contract(attention.scores(), [3, 1, 2], mix, [3, 0], [0, 1, 2], sizes)
    assert "mixed" in attention.refusal(attention.values(attention.softmax(s))).reason


def grouped(attention: Attention, tiled: bool) -> None:
    """K and V of two heads, repeated for three query heads each (or tiled over them)."""
    net = attention.net = Net("main", np.random.default_rng(3))
    attention.q = net.input((HEADS, ROWS, 8))
    repeated = []
    for d in (8, 4):
        t = net.input((2, KEYS, d))
        dims, shape = ([1, 2, 3], (3, 2, KEYS, d)) if tiled else ([0, 2, 3], (2, 3, KEYS, d))
        t = net.elementwise([(t, dims)], shape, [], "%b0", lambda a: a)
        repeated.append(net.reshape(t, [[0, 1], [2], [3]], (HEADS, KEYS, d)))
    attention.k, attention.v = repeated


def test_repeated_heads_are_grouped(attention: Attention) -> None:
    grouped(attention, tiled=False)
    site = attention.site(attention.values(attention.softmax(attention.scores())))
    assert (site.heads, site.kv_heads) == (HEADS, 2)


def test_tiled_heads_are_another_grouping(attention: Attention) -> None:
    """Head h reads kv head h % 2: the kv heads are the batch, each with one group of heads."""
    grouped(attention, tiled=True)
    site = attention.site(attention.values(attention.softmax(attention.scores())))
    assert (site.batch, site.heads, site.kv_heads) == (2, 3, 1)


def test_roles_are_told_by_the_axes_alone(attention: Attention) -> None:
    """softmax(K Qᵀ) over the rows of Q is attention with the roles swapped."""
    net = attention.net
    s = net.batch_matmul(attention.k, net.transpose(attention.q, [0, 2, 1]))
    attention.v = net.input((HEADS, ROWS, 4))
    site = attention.site(attention.values(attention.softmax(s)))
    assert (site.q_len, site.kv_len) == (KEYS, ROWS)


def test_transposed_product(attention: Attention) -> None:
    """O = (Vᵀ Pᵀ)ᵀ"""
    net = attention.net
    p = net.transpose(attention.softmax(attention.scores()), [0, 2, 1])
    o = net.batch_matmul(net.transpose(attention.v, [0, 2, 1]), p)
    site = attention.site(net.transpose(o, [0, 2, 1]))
    assert site.v.strides == (0, KEYS * 4, 4, 1)


def test_values_transposed_by_name_only(attention: Attention) -> None:
    """P times V read transposed, where keys and head dim have one size."""
    net = attention.net
    v = net.input((HEADS, KEYS, KEYS))
    p = attention.softmax(attention.scores())
    o = net.batch_matmul(p, net.transpose(v, [0, 2, 1]))
    site = attention.site(o)
    assert site.v.strides == (0, KEYS * KEYS, 1, KEYS)


def test_probabilities_as_a_second_result(attention: Attention) -> None:
    p = attention.softmax(attention.scores())
    site = attention.site(attention.values(p), p)
    assert site.weights is not None
    assert site.weights.strides == (0, ROWS * KEYS, KEYS, 1)


def test_probabilities_read_elsewhere_in_another_layout(attention: Attention) -> None:
    net = attention.net
    s = net.transpose(attention.scores(), [0, 2, 1])
    p = attention.softmax(s, 1)
    refusal = attention.refusal(attention.values(net.transpose(p, [0, 2, 1])), p)
    assert refusal.rule == "weights"


def test_transposed_probabilities_are_no_attention(attention: Attention) -> None:
    net = attention.net
    p = net.transpose(attention.softmax(attention.scores()), [0, 2, 1])
    v = net.input((HEADS, ROWS, 4))
    assert attention.refusal(net.batch_matmul(p, v)).rule == "softmax"


def test_repeated_heads_cast_afterwards(attention: Attention) -> None:
    """f16 keys repeated for the heads of a group and then widened: they are widened unrepeated."""
    net, group, kv = attention.net, 3, 2
    attention.q = net.input((HEADS, 1, 8))  # a single query: the heads of a group are its rows
    dims: list[int | None] = [0, 2, 3]

    def repeated(columns: int) -> Val:
        x = net.input((kv, KEYS, columns), "f16")
        shape = (kv, group, KEYS, columns)
        x = net.elementwise([(x, dims)], shape, [], "%b0", lambda a: a, "f16")
        return net.cast(net.reshape(x, [[0, 1], [2], [3]], (HEADS, KEYS, columns)), "f32")

    k, attention.v = repeated(8), repeated(4)
    site = attention.site(attention.values(attention.softmax(attention.scores(k=k))))
    assert (site.kv_heads.static, site.q_len.static) == (kv, group)
    assert (site.k.value.shape, site.v.value.shape) == ((kv, KEYS, 8), (kv, KEYS, 4))


def test_a_result_that_is_the_next_query_is_read_where_the_first_dispatch_wrote_it(
    attention: Attention,
) -> None:
    """Where it lay before it was transposed only stock code would still compute it."""
    net = attention.net
    first = attention.values(attention.softmax(attention.scores()))
    first = net.transpose(net.transpose(first, [1, 0, 2]), [1, 0, 2])
    k = net.input((HEADS, KEYS, 4))
    o = attention.values(attention.softmax(attention.scores(first, k)))
    one, two = attention.raised(o)
    assert isinstance(one, AttentionSite)
    assert isinstance(two, AttentionSite)
    assert two.q.value == one.out.value


def test_a_number_out_of_a_tensor_is_added_to_the_scores(attention: Attention) -> None:
    """``slopes[0]``: a slice of one element, collapsed to a tensor without dims."""
    net = attention.net
    one = net.reshape(net.slice(net.input((HEADS,)), 0, 2, 1), [], ())
    s = net.binary(attention.scores(), one, [], "addf")
    bias = net.binary(net.input((ROWS, KEYS)), one, [], "mulf")
    s = net.binary(s, bias, [1, 2], "addf")
    site = attention.site(attention.values(attention.softmax(s)))
    assert site.bias is not None
