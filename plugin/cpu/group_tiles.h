// One group of 32 rows on AMX tiles. Q and P are row-major bf16, K and V the panels of pack.h.
#pragma once
#include "gemm_tiles.h"
#include "group_direct.h"
#include "pack.h"
#include "softmax_tiles.h"

namespace {

constexpr int64_t kGroupRows = 2 * kTileRows;
static_assert(kKvTile % kPanel == 0 && kQTile % kGroupRows == 0 && kTileRows % W == 0);

FA_INLINE Group group_of(const Block &b, int64_t g) {
  return {g * kGroupRows, smaller(kGroupRows, b.count - g * kGroupRows)};
}

// Scores stay bare products, in units of 1 / scale, where nothing but the softmax follows: the
// scale then is part of the exponent's. Running maxima are in the same units.
FA_INLINE bool bare_scores(const Problem &p) {
  return p.plain_scores() && p.fill == -kInf && p.scale > 0.0f && p.scale < 1e30f;
}

// A group with scores and maxima, whose weights and values are still to do. They wait for the next
// group's scores: the tiles multiply these while the vectors are busy with the weights.
struct Pending {
  Group group;
  int64_t lo, keys;
  float *s;
};

// Panel `i` of the scores of keys from `lo` on.
FA_INLINE void score_panel(const Problem &p, const Block &b, Group g, int64_t lo, int64_t i,
                           float *s) {
  const int64_t depth = depth_words(p.dk);
  const float *q = b.q + g.first * depth, *k = b.k + (lo + i * kPanel) * depth;
  if (g.count > kTileRows) return tile_scores<2>(q, k, depth, s + i * kPanel);
  tile_scores<1>(q, k, depth, s + i * kPanel);
}

FA_INLINE void pending_row(const Problem &p, const Block &b, const Pending &last, int64_t i,
                           float unit) {
  const int64_t row = last.group.first + i;
  float *s = last.s + i * kScoreStep, *sum = b.sum + row * W;
  // The LSE shows the sum as it is; in O and P most of the error cancels.
  if (p.has(FA_FLAG_LSE)) return weigh_row<true>(s, last.keys, unit, b.max[row], sum);
  weigh_row<false>(s, last.keys, unit, b.max[row], sum);
}

FA_INLINE void pending_values(const Problem &p, const Block &b, const Pending &last) {
  const float *v = b.v + words(last.lo) * kPanel;
  const int64_t panel_step = words(b.kv_tile) * kPanel, depth = depth_words(last.keys);
  float *o = b.o + last.group.first * b.o_step;
  if (last.group.count > kTileRows)
    return tile_values<2>(last.s, v, panel_step, depth, o, b.o_step);
  tile_values<1>(last.s, v, panel_step, depth, o, b.o_step);
}

FA_INLINE float unit_of(const Problem &p) { return bare_scores(p) ? p.scale * kLog2E : kLog2E; }

inline __attribute__((noinline)) void tiled_step(const Problem &p, const Block &b, Group g,
                                                 int64_t begin, int64_t lo, int64_t hi,
                                                 bool adjust) {
  Pending &last = *b.pending;
  const int64_t keys = hi - lo, panels = round_up(keys, kPanel) / kPanel;
  const int64_t rows = round_up(last.group.count, kTileRows);
  const bool bare = bare_scores(p);
  const float unit = unit_of(p);
  float *s = last.s == b.s ? b.s + kGroupRows * kScoreStep : b.s;
  int64_t done = 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (; done * rows < (i + 1) * panels; ++done) score_panel(p, b, g, lo, done, s);
    pending_row(p, b, last, i, unit);
  }
  for (; done < panels; ++done) score_panel(p, b, g, lo, done, s);
  if (rows) pending_values(p, b, last);
  if (!bare || adjust)
    for (int64_t i = 0; i < g.count; ++i)
      adjust_row(p, masks_of(p, b, g.first + i), (b.first + g.first + i) / p.group, begin + lo,
                 keys, s + i * kScoreStep, bare ? 1.0f : p.scale);
  for (int64_t i = 0; i < round_up(g.count, kTileRows); i += W)
    move_maxima(s + i * kScoreStep, keys, unit, b.max + g.first + i, b.sum + (g.first + i) * W,
                b.o + (g.first + i) * b.o_step, b.o_step);
  last = {g, lo, keys, s};
}

// One group's part of the result, of keys [begin + lo, begin + hi).
FA_INLINE void group_step(const Problem &p, const Block &b, Group g, int64_t begin, int64_t lo,
                          int64_t hi, bool adjust) {
  if (!b.direct) return tiled_step(p, b, g, begin, lo, hi, adjust);
  with_rows<kDirectRows>(g.count, [&](auto m) {
    direct_step<m.value>(p, b, g, begin, lo, hi, adjust);
  });
}

// What the last group of a block of keys left to do.
inline __attribute__((noinline)) void finish_steps(const Problem &p, const Block &b) {
  Pending &last = *b.pending;
  if (!last.group.count) return;
  for (int64_t i = 0; i < round_up(last.group.count, kTileRows); ++i)
    pending_row(p, b, last, i, unit_of(p));
  pending_values(p, b, last);
  last = {};
}

// P of keys [begin, begin + keys), from fresh scores and the final maxima and sums.
FA_INLINE void group_weights(const Problem &p, const Block &b, Group g, int64_t begin,
                             int64_t keys, bool, const float *factors, Element *weights) {
  for (int64_t i = 0; i < round_up(keys, kPanel) / kPanel; ++i)
    score_panel(p, b, g, 0, i, b.s);
  for (int64_t i = 0; i < g.count; ++i) {
    float *s = b.s + i * kScoreStep;
    adjust_row(p, masks_of(p, b, g.first + i), (b.first + g.first + i) / p.group, begin, keys, s,
               p.scale);
    write_weights_row(p, b, g.first + i, s, begin, keys, factors[g.first + i], weights);
  }
}

FA_INLINE void pack_key_panels(const Problem &p, const Block &b, int64_t begin, int64_t keys) {
  if (!b.direct) pack_k(p, k_of(p, b), begin, keys, b.k);
}
FA_INLINE void pack_keys(const Problem &p, const Block &b, int64_t begin, int64_t keys) {
  pack_key_panels(p, b, begin, keys);
  if (!b.direct) pack_v(p, v_of(p, b), begin, keys, b.kv_tile, b.v);
}

// Q as rows of bf16, zero up to whole tiles.
inline __attribute__((noinline)) void load_tile_rows(const Problem &p, const Block &b) {
  const int64_t depth = depth_words(p.dk), rows = round_up(b.count, kGroupRows);
  const Element *q = q_of(p, b);
  for (int64_t i = 0; i < rows; ++i) {
    float *out = b.q + i * depth;
    const int64_t row = b.first + i;
    for (int64_t c = 0; c < depth; c += W) {
      Vec x = {};
      if (i < b.count && !p.has(FA_FLAG_Q_TRANSPOSED))
        x = load_words(q + row / p.group * p.qs.row + row % p.group * p.qs.head + c * kPair,
                       larger(p.dk - c * kPair, 0));
      store(out + c, x);
    }
    if (i >= b.count || !p.has(FA_FLAG_Q_TRANSPOSED)) continue;
    const Element *x = q + row / p.group + row % p.group * p.qs.head;
    for (int64_t c = 0; c < words(p.dk); ++c) {
      const Element *at = x + c * kPair * p.qs.row;
      out[c] = one_word(at, c * kPair + 1 < p.dk ? at + p.qs.row : nullptr);
    }
  }
}

FA_INLINE void begin_rows(const Problem &p, const Block &b) {
  if (b.direct) {
    load_direct_rows(p, b);
  } else {
    load_tile_rows(p, b);
  }
  clear_state(b, round_up(b.count, kGroupRows));
  *b.pending = {};
}
// Maxima in natural units.
FA_INLINE void end_rows(const Problem &p, const Block &b) {
  if (b.direct || !bare_scores(p)) return;
  for (int64_t i = 0; i < b.count; ++i) b.max[i] *= p.scale;
}

// How the rows [first, first + count) of a block are worked on.
FA_INLINE void arrange(const Problem &p, Block &b) {
  b.groups = (b.count + kGroupRows - 1) / kGroupRows;
  b.direct = reads_in_place(p, b.count);
}

// Carves a block's buffers out of the scratch memory, as in group.h; rows come in whole groups.
inline Block carve(const Problem &p, void *scratch) {
  constexpr int64_t total = kScratchBytes / 4 - 2 * kGroupRows * kScoreStep - 10 * W;
  Block b = {};
  b.o_step = round_up(p.dv, kTileColumns);
  const int64_t depth = depth_words(p.dk);
  const int64_t a_key = depth + words(round_up(p.dv, kPanel));
  const int64_t a_row = depth + b.o_step + W + 1;
  int64_t fitting = total / 2 / (a_key ? a_key : 1) / kPanel * kPanel;
  b.kv_tile = larger(smaller(kKvTile, fitting), kPanel);
  const int64_t rows = (total - b.kv_tile * a_key) / a_row / kGroupRows * kGroupRows;
  b.count = larger(smaller(kQTile, rows), kGroupRows);
  float *at = static_cast<float *>(scratch);
  auto take = [&](int64_t n) { float *x = at; at += round_up(n, W); return x; };
  b.pending = reinterpret_cast<Pending *>(take(sizeof(Pending) / 4));
  b.s = take(2 * kGroupRows * kScoreStep);
  b.k = take(b.kv_tile * depth);
  b.v = take(words(b.kv_tile) * round_up(p.dv, kPanel));
  b.o = take(b.count * b.o_step);
  b.sum = take(b.count * W);
  b.max = take(b.count);
  b.q = take(b.count * depth);  // 32 rows or more, which hold kDirectRows of f32
  return b;
}

}  // namespace
