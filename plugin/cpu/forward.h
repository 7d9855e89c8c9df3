// Attention of one block of rows over a range of keys: FlashAttention-2 (algorithm 1) with packed
// panels, and the two kernels made of it, "forward" and "partial".
#pragma once
#include "direct.h"
#include "gemm.h"
#include "pack.h"
#include "score.h"
#include "softmax.h"

namespace {

// Rows of one workgroup, its running state and its buffers, all in scratch memory.
struct Block {
  int64_t batch, kv_head;
  int64_t first, count;  // packed rows: row i is query i / group of head i % group
  int64_t groups;        // register tiles of at most kRows rows
  int64_t kv_tile, o_step;
  bool v_in_place;  // V is f32 and dense enough to be read where it lies
  bool direct;  // few rows: K and V are read in place, and q holds rows of round_up(dk, W)
  float *q, *o, *sum, *max;  // [words of dk][rows] a group, [row][o_step], [row][W], [row]
  float *k, *v, *s;          // panels of one block of keys; scores of one group
};

struct Group {
  int64_t first, count;  // rows, relative to the block
};

FA_INLINE Group group_of(const Block &b, int64_t g) {
  int64_t each = b.count / b.groups, more = b.count % b.groups;
  return {g * each + (g < more ? g : more), each + (g < more)};
}

FA_INLINE const Element *k_of(const Problem &p, const Block &b) {
  return p.k + b.batch * p.ks.batch + b.kv_head * p.ks.head;
}
FA_INLINE const Element *v_of(const Problem &p, const Block &b) {
  return p.v + b.batch * p.vs.batch + b.kv_head * p.vs.head;
}

FA_INLINE RowMasks masks_of(const Problem &p, const Block &b, int64_t i) {
  const int64_t row = b.first + i;
  return row_masks(p, b.batch, b.kv_head * p.group + row % p.group, row / p.group);
}

inline __attribute__((noinline)) void prefetch_group(const Problem &p, const Block &b, Group g,
                                                     int64_t begin, int64_t keys) {
  for (int64_t i = 0; i < g.count; ++i)
    prefetch_masks(p, masks_of(p, b, g.first + i), begin, keys);
}

// V from key begin + lo on, packed or where it lies.
FA_INLINE Values values_from(const Problem &p, const Block &b, int64_t begin, int64_t lo) {
  if constexpr (sizeof(Element) == sizeof(float)) {
    const float *v = reinterpret_cast<const float *>(v_of(p, b));
    if (b.v_in_place) return {v + (begin + lo) * p.vs.row, p.vs.row, kPanel};
  }
  return {b.v + words(lo) * kPanel, kPanel, words(b.kv_tile) * kPanel};
}

// Scores of one group against keys [begin + lo, begin + hi) of the packed block (lo on a panel).
template <int M>
FA_INLINE void group_scores(const Problem &p, const Block &b, Group g, int64_t begin, int64_t lo,
                            int64_t hi, bool adjust) {
  const int64_t keys = hi - lo;
  if (b.direct) {
    const int64_t step = round_up(p.dk, W);
    if constexpr (M <= kDirectRows)
      for (int64_t j = 0; j < keys; j += W)
        direct_scores<M>(p, b.q + g.first * step, step, k_of(p, b) + (begin + lo + j) * p.ks.row,
                         keys - j, b.s + j);
  } else {
    const int64_t depth = words(p.dk);
    const float *q = b.q + g.first * depth, *k = b.k + lo * depth;
    const int64_t panels = round_up(keys, kPanel) / kPanel;
    if (p.only_adds_f32() && keys % kPanel == 0) {
      const float *add[M];
      for (int i = 0; i < M; ++i)
        add[i] = static_cast<const float *>(masks_of(p, b, g.first + i).bias) + begin + lo;
      return biased_scores<M>(q, k, panels, depth, p.scale, b.s, add);
    }
    scores<M>(q, k, panels, depth, p.scale, b.s);
  }
  if (!adjust) return;
  for (int i = 0; i < M; ++i) {
    adjust_row(p, masks_of(p, b, g.first + i), (b.first + g.first + i) / p.group, begin + lo, keys,
               b.s + i * kKvTile);
  }
}

template <int M>
inline __attribute__((noinline)) void group_step(const Problem &p, const Block &b, Group g,
                                                 int64_t begin, int64_t lo, int64_t hi,
                                                 bool adjust) {
  float factor[W];
  group_scores<M>(p, b, g, begin, lo, hi, adjust);
  softmax_step<M>(b.s, hi - lo, b.max + g.first, b.sum + g.first * W, factor);
  float *o = b.o + g.first * b.o_step;
  if (b.direct) {
    if constexpr (M <= kDirectRows)
      direct_values<M>(p, b.s, v_of(p, b) + (begin + lo) * p.vs.row, hi - lo, o, b.o_step, factor);
  } else {
    narrow_weights<M>(b.s, hi - lo);
    values<M>(b.s, values_from(p, b, begin, lo), words(hi - lo), o, b.o_step, factor);
  }
}

// P of keys [begin, begin + keys), from fresh scores and the final maxima and sums.
template <int M>
inline __attribute__((noinline)) void group_weights(const Problem &p, const Block &b, Group g,
                                                    int64_t begin, int64_t keys, bool adjust,
                                                    const float *inverse, Element *weights) {
  group_scores<M>(p, b, g, begin, 0, keys, adjust);
  for (int i = 0; i < M; ++i) {
    int64_t row = b.first + g.first + i;
    int64_t head = b.kv_head * p.group + row % p.group;
    Element *out = weights + ((b.batch * p.heads + head) * p.q_len + row / p.group) * p.kv_len;
    Vec m = splat(finite_max(b.max[g.first + i])), scale = splat(inverse[g.first + i]);
    for (int64_t j = 0; j < keys; j += W)
      store_n(out + begin + j, exp_nonpositive(load(b.s + i * kKvTile + j) - m) * scale, keys - j);
  }
}

// Calls `f` with the group's row count as a compile-time constant.
template <int M = kRows, class F>
FA_INLINE void with_rows(int64_t count, F f) {
  if constexpr (M > 0) {
    if (count == M) return f(Constant<M>{});
    with_rows<M - 1>(count, f);
  }
}

// The part of a key block that some row of the group sees, and whether every row sees all of it.
struct Segment {
  int64_t lo, hi;
  bool whole;
};

FA_INLINE Segment visible(const Problem &p, const Block &b, Group g, int64_t begin, int64_t keys) {
  int64_t top = (b.first + g.first) / p.group;
  int64_t bottom = (b.first + g.first + g.count - 1) / p.group;
  int64_t lo = larger(p.first_key(top) - begin, 0) / kPanel * kPanel;
  int64_t hi = smaller(p.end_key(bottom) - begin, keys);
  // What is left out may have to be visited with the fill value later, from a panel's start on.
  if (p.fill > -kInf) hi = smaller(round_up(larger(hi, 0), kPanel), keys);
  return {lo, hi, p.first_key(bottom) - begin <= lo && p.end_key(top) - begin >= hi};
}

// Whether elements that the band excludes cannot change any row of the group: their weight,
// exp(fill - max), is 0 in f32. Never so where a bias comes on top of the fill.
FA_INLINE bool fill_vanishes(const Problem &p, const Block &b, Group g) {
  if (p.fill == -kInf) return true;
  if (p.has(FA_FLAG_BIAS) && p.has(FA_FLAG_BIAS_AFTER_FILL)) return false;
  for (int64_t i = 0; i < g.count; ++i)
    if (!(b.max[g.first + i] - p.fill > 104.0f)) return false;
  return true;
}

FA_INLINE void pack_keys(const Problem &p, const Block &b, int64_t begin, int64_t keys) {
  if (b.direct) return;
  pack_k(p, k_of(p, b), begin, keys, b.k);
  if (!b.v_in_place) pack_v(p, v_of(p, b), begin, keys, b.kv_tile, b.v);
}

// The keys that the band leaves visible, of [key_begin, key_end).
inline void attend_visible(const Problem &p, const Block &b, int64_t key_begin, int64_t key_end) {
  int64_t from = larger(p.first_key(b.first / p.group), key_begin);
  int64_t to = smaller(p.end_key((b.first + b.count - 1) / p.group), key_end);
  from = key_begin + (from - key_begin) / b.kv_tile * b.kv_tile;
  // With a finite fill a group visits whole panels, so these have to be packed.
  if (p.fill > -kInf) to = smaller(key_begin + round_up(larger(to - key_begin, 0), kPanel), key_end);
  const bool plain = p.plain_scores();
  for (int64_t begin = from; begin < to; begin += b.kv_tile) {
    int64_t keys = smaller(b.kv_tile, to - begin);
    pack_keys(p, b, begin, keys);
    for (int64_t g = 0; g < b.groups; ++g) {
      Group group = group_of(b, g);
      if (!plain && !p.only_adds_f32()) {
        const bool last = g + 1 == b.groups;
        const int64_t ahead = last ? begin + b.kv_tile : begin;
        prefetch_group(p, b, group_of(b, last ? 0 : g + 1), ahead, smaller(b.kv_tile, to - ahead));
      }
      Segment seg = visible(p, b, group, begin, keys);
      if (seg.lo >= seg.hi) continue;
      with_rows(group.count, [&](auto m) {
        group_step<m.value>(p, b, group, begin, seg.lo, seg.hi, !plain || !seg.whole);
      });
    }
  }
}

// The keys that the band excludes, for the groups in which a finite fill leaves them some weight
// (rows with nothing visible, above all).
inline void attend_filled(const Problem &p, const Block &b, int64_t key_begin, int64_t key_end) {
  bool any = false;
  for (int64_t g = 0; g < b.groups; ++g) any |= !fill_vanishes(p, b, group_of(b, g));
  if (!any) return;
  for (int64_t begin = key_begin; begin < key_end; begin += b.kv_tile) {
    int64_t keys = smaller(b.kv_tile, key_end - begin);
    bool packed = false;
    for (int64_t g = 0; g < b.groups; ++g) {
      Group group = group_of(b, g);
      if (fill_vanishes(p, b, group)) continue;
      Segment seg = visible(p, b, group, begin, keys);
      if (seg.lo == 0 && seg.hi == keys) continue;
      if (seg.lo >= seg.hi) seg = {keys, keys, false};
      if (!packed) {
        pack_keys(p, b, begin, keys);
        packed = true;
      }
      with_rows(group.count, [&](auto m) {
        if (seg.lo > 0) group_step<m.value>(p, b, group, begin, 0, seg.lo, true);
        if (seg.hi < keys) group_step<m.value>(p, b, group, begin, seg.hi, keys, true);
      });
    }
  }
}

// Attention of the block's rows over [key_begin, key_end): leaves o (not normalised), max and sum.
inline void attend(const Problem &p, const Block &b, int64_t key_begin, int64_t key_end) {
  const Element *q = p.q + b.batch * p.qs.batch + b.kv_head * p.group * p.qs.head;
  for (int64_t i = 0; b.direct && i < b.count; ++i) {
    int64_t row = b.first + i;
    widen_row(p, q + row / p.group * p.qs.row + row % p.group * p.qs.head,
              b.q + i * round_up(p.dk, W));
  }
  for (int64_t g = 0; !b.direct && g < b.groups; ++g) {
    Group group = group_of(b, g);
    pack_q(p, q, b.first + group.first, group.count, b.q + group.first * words(p.dk));
  }
  for (int64_t i = 0; i < b.count; ++i) b.max[i] = -kInf;
  for (int64_t i = 0; i < b.count; ++i) store(b.sum + i * W, Vec{});
  for (int64_t i = 0; i < b.count * b.o_step; i += W) store(b.o + i, Vec{});
  attend_visible(p, b, key_begin, key_end);
  if (p.banded()) attend_filled(p, b, key_begin, key_end);
}

// Carves a block's buffers out of the scratch memory. Long key tiles and long row blocks both
// amortise packing; wide heads shrink them until everything fits.
inline Block carve(const Problem &p, void *scratch) {
  constexpr int64_t total = kScratchBytes / 4 - kRows * kKvTile - 8 * W;
  Block b = {};
  b.o_step = round_up(p.dv, W);
  const int64_t a_key = words(p.dk) + words(round_up(p.dv, kPanel));
  const int64_t a_row = round_up(p.dk, W) + b.o_step + W + 1;
  int64_t fitting = total / 2 / (a_key ? a_key : 1) / kPanel * kPanel;
  b.kv_tile = larger(smaller(kKvTile, fitting), kPanel);
  b.count = larger(smaller(kQTile, (total - b.kv_tile * a_key) / a_row), 1);
  float *at = static_cast<float *>(scratch);
  auto take = [&](int64_t n) { float *x = at; at += round_up(n, W); return x; };
  b.s = take(kRows * kKvTile);
  b.k = take(b.kv_tile * words(p.dk));
  b.v = take(words(b.kv_tile) * round_up(p.dv, kPanel));
  b.o = take(b.count * b.o_step);
  b.sum = take(b.count * W);
  b.max = take(b.count);
  b.q = take(b.count * round_up(p.dk, W));  // last: packing writes up to W floats beyond it
  return b;
}

// Runs `body` over the workgroup's rows in blocks that fit the scratch memory.
template <class Body>
FA_INLINE void for_row_blocks(const Problem &p, uint32_t x, Block b, Body body) {
  const int64_t rows = p.q_len * p.group, tiles = (rows + kQTile - 1) / kQTile;
  if (x >= tiles) return;
  // Under a causal band the last rows have most work: they go first, so that none is left alone.
  const int64_t tile = p.has(FA_FLAG_BAND_HI) ? tiles - 1 - x : x;
  const int64_t first = tile * kQTile, end = smaller(first + kQTile, rows);
  const int64_t parts = (end - first + b.count - 1) / b.count;
  const int64_t most = (end - first + parts - 1) / parts;
  for (b.first = first; b.first < end; b.first += most) {
    b.count = smaller(most, end - b.first);
    b.groups = (b.count + kRows - 1) / kRows;
    // Longer rows would make every key another page.
    b.v_in_place = sizeof(Element) == sizeof(float) && !p.has(FA_FLAG_V_TRANSPOSED) &&
                   p.dv % W == 0 && p.vs.row <= 256;
    b.direct = b.count <= kDirectRows &&
               !p.has(FA_FLAG_Q_TRANSPOSED | FA_FLAG_K_TRANSPOSED | FA_FLAG_V_TRANSPOSED |
                      FA_FLAG_WEIGHTS);
    body(b);
  }
}

}  // namespace
