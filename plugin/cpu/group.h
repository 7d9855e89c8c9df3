// One group of rows, as many as a register tile has: scores, softmax and values on vectors.
#pragma once
#include "gemm.h"
#include "group_direct.h"
#include "pack.h"

namespace {

// Keys up to which Q is read where it lies.
constexpr int64_t kFewKeys = 32;
// Groups up to which packing V costs more than it saves.
constexpr int64_t kFewGroups = 8;

FA_INLINE Group group_of(const Block &b, int64_t g) {
  int64_t each = b.count / b.groups, more = b.count % b.groups;
  return {g * each + (g < more ? g : more), each + (g < more)};
}

// V from key begin + lo on, packed or where it lies.
FA_INLINE Values values_from(const Problem &p, const Block &b, int64_t begin, int64_t lo) {
  if constexpr (sizeof(Element) == sizeof(float)) {
    const float *v = reinterpret_cast<const float *>(v_of(p, b));
    if (b.v_in_place) return {v + (begin + lo) * p.vs.row, p.vs.row, kPanel};
  }
  return {b.v + words(lo) * kPanel, kPanel, words(b.kv_tile) * kPanel};
}

FA_INLINE const float *q_row(const Problem &p, const Block &b, int64_t i) {
  return reinterpret_cast<const float *>(q_of(p, b)) + (b.first + i) * p.qs.row;
}

// Scores of one group against keys [begin + lo, begin + hi) of the packed block (lo on a panel). The
// first `shared` of them stay as they come, the others are adjusted.
template <int M>
FA_INLINE void packed_scores(const Problem &p, const Block &b, Group g, int64_t begin, int64_t lo,
                             int64_t hi, int64_t shared) {
  const int64_t keys = hi - lo, depth = words(p.dk);
  const Queries q = {b.q + g.first * kQChunk, b.count * kQChunk};
  const float *k = b.k + lo * depth;
  if (p.only_adds_f32() && keys % kPanel == 0) {
    const float *add[M];
    for (int i = 0; i < M; ++i)
      add[i] = static_cast<const float *>(masks_of(p, b, g.first + i).bias) + begin + lo;
    return biased_scores<M>(q, k, keys / kPanel, depth, p.scale, b.s, add);
  }
  if (kPair == 1 && b.q_in_place) {
    row_scores<M>(q_row(p, b, g.first), p.qs.row, k, keys, depth, p.scale, b.s);
  } else {
    scores<M>(q, k, keys, depth, p.scale, b.s);
  }
  if (shared == keys) return;
  for (int i = 0; i < M; ++i) {
    adjust_row(p, masks_of(p, b, g.first + i), (b.first + g.first + i) / p.group,
               begin + lo + shared, keys - shared, b.s + i * kKvTile + shared);
  }
}

template <int M>
inline __attribute__((noinline)) void packed_step(const Problem &p, const Block &b, Group g,
                                                  int64_t begin, int64_t lo, int64_t hi,
                                                  int64_t shared, bool fresh) {
  float factor[W];
  packed_scores<M>(p, b, g, begin, lo, hi, shared);
  weigh<M, (kPair > 1)>(p, b, g, hi - lo, factor);
  values<M>(b.s, values_from(p, b, begin, lo), words(hi - lo), p.dv, b.o + g.first * b.o_step,
            b.o_step, fresh ? nullptr : factor);
}

// One group's part of the result, of keys [begin + lo, begin + hi), which are its first if `fresh`.
FA_INLINE void group_step(const Problem &p, const Block &b, Group g, int64_t begin, int64_t lo,
                          int64_t hi, int64_t shared, bool fresh) {
  with_rows<kRows>(g.count, [&](auto m) {
    if constexpr (m.value <= kDirectRows)
      if (b.direct) return direct_step<m.value>(p, b, g, begin, lo, hi, shared);
    packed_step<m.value>(p, b, g, begin, lo, hi, shared, fresh);
  });
}

FA_INLINE void finish_steps(const Problem &, const Block &) {}

// P of keys [begin, begin + keys), from fresh scores and the final maxima and sums.
template <int M>
inline __attribute__((noinline)) void packed_weights(const Problem &p, const Block &b, Group g,
                                                     int64_t begin, int64_t keys, bool adjust,
                                                     const float *factors, Element *weights) {
  packed_scores<M>(p, b, g, begin, 0, keys, adjust ? 0 : keys);
  for (int i = 0; i < M; ++i)
    write_weights_row(p, b, g.first + i, b.s + i * kKvTile, begin, keys, factors[g.first + i],
                      weights);
}

FA_INLINE void group_weights(const Problem &p, const Block &b, Group g, int64_t begin,
                             int64_t keys, bool adjust, const float *factors, Element *weights) {
  with_rows<kRows>(g.count, [&](auto m) {
    packed_weights<m.value>(p, b, g, begin, keys, adjust, factors, weights);
  });
}

FA_INLINE void pack_key_panels(const Problem &p, const Block &b, int64_t begin, int64_t keys) {
  if (!b.direct) pack_k(p, k_of(p, b), begin, keys, b.k);
}
FA_INLINE void pack_keys(const Problem &p, const Block &b, int64_t begin, int64_t keys) {
  pack_key_panels(p, b, begin, keys);
  if (!b.direct && !b.v_in_place) pack_v(p, v_of(p, b), begin, keys, b.kv_tile, b.v);
}

// Whether a group's first keys may write O, whatever it holds.
FA_INLINE bool overwrites(const Block &b) { return !b.direct; }

// The block's rows begin: Q packed, nothing seen. And end: what is left to do to their state.
FA_INLINE void begin_rows(const Problem &p, const Block &b, bool fresh) {
  if (b.direct) {
    load_direct_rows(p, b);
  } else if (!b.q_in_place) {
    pack_q(p, q_of(p, b), b.first, b.count, b.q);
  }
  clear_state(b, b.count, fresh);
}
FA_INLINE void end_rows(const Problem &, const Block &) {}

// How the rows [first, first + count) of a block are worked on.
FA_INLINE void arrange(const Problem &p, Block &b) {
  b.groups = (b.count + kRows - 1) / kRows;
  // Longer rows would make every key another page, and with panels of one cache line, as AVX2 has
  // them, rows of 256 bytes fall onto too few of the cache's sets to stay for the next group.
  const int64_t dense = W > 8 || b.groups < kFewGroups ? 256 : 32;
  b.v_in_place = sizeof(Element) == sizeof(float) && !p.has(FA_FLAG_V_TRANSPOSED) &&
                 p.dv % W == 0 && p.vs.row <= dense;
  b.direct = reads_in_place(p, b.count);
  // Packing Q pays where many keys read it, or its rows, read side by side, would be pages apart.
  b.q_in_place = sizeof(Element) == sizeof(float) && p.group == 1 && p.kv_len <= kFewKeys &&
                 p.qs.row <= 256 && !p.has(FA_FLAG_Q_TRANSPOSED) && !p.only_adds_f32();
}

// Carves a block's buffers out of the scratch memory. Long key tiles and long row blocks both
// amortise packing; wide heads shrink them until everything fits.
inline Block carve(const Problem &p, void *scratch) {
  constexpr int64_t total = kScratchBytes / 4 - kRows * kKvTile - 8 * W;
  Block b = {};
  b.o_step = round_up(p.dv, W);
  const int64_t a_key = words(p.dk) + words(round_up(p.dv, kPanel));
  const int64_t a_row = q_words(p) + b.o_step + W + 1;
  int64_t fitting = total / 2 / (a_key ? a_key : 1) / kPanel * kPanel;
  b.kv_tile = larger(smaller(kKvTile, fitting), kPanel);
  // The widest heads leave no room for rows beside a whole panel of keys: half of one, then.
  if (b.kv_tile * a_key + kDirectRows * a_row > total) b.kv_tile = kPanel / 2;
  const int64_t k_words = round_up(b.kv_tile, kPanel) * words(p.dk);
  const int64_t v_words = words(b.kv_tile) * round_up(p.dv, kPanel);
  b.count = larger(smaller(kQTile, (total - k_words - v_words) / a_row), 1);
  float *at = static_cast<float *>(scratch);
  auto take = [&](int64_t n) { float *x = at; at += round_up(n, W); return x; };
  b.s = take(kRows * kKvTile);
  b.k = take(k_words);
  b.v = take(v_words);
  b.o = take(b.count * b.o_step);
  b.sum = take(b.count * W);
  b.max = take(b.count);
  b.q = take(b.count * q_words(p));
  return b;
}

}  // namespace
