// One group of 32 rows on AMX tiles. Q and P are row-major bf16, K and V the panels of pack.h.
#pragma once
#include "gemm_tiles.h"
#include "group_direct.h"
#include "pack.h"
#include "softmax_tiles.h"

namespace {

constexpr int64_t kGroupRows = 2 * kTileRows;
// Rows whose weights are computed between two looks at the tiles.
constexpr int64_t kRowsATime = 4;
// Eighths of a step's products that go beside its weights; the others go beside its maxima.
constexpr int64_t kWeighShare = 7;
static_assert(kQTile % kGroupRows == 0 && kTileRows % W == 0);
// Two groups' scores and weights.
constexpr int64_t kScoreRoom = 2 * kGroupRows * score_step(kLongStep);
constexpr int64_t kWeightRoom = 2 * kGroupRows * weight_step(kLongStep);
static_assert(kScoreRoom >= kDirectRows * kKvTile);

// f with the keys a step as a constant.
template <class F>
FA_INLINE void with_step(const Block &b, F f) {
  if (b.step == kShortStep) return f(Constant<kShortStep>{});
  f(Constant<kLongStep>{});
}

FA_INLINE Group group_of(const Block &b, int64_t g) {
  return {g * kGroupRows, smaller(kGroupRows, b.count - g * kGroupRows)};
}

// Scores stay bare products, in units of 1 / scale, where nothing but the softmax follows: the
// scale then is part of the exponent's. Running maxima are in the same units.
FA_INLINE bool bare_scores(const Problem &p) {
  return p.plain_scores() && p.fill == -kInf && p.scale > 0.0f && p.scale < 1e30f;
}

// A group and some of a block's keys.
struct Part {
  Group group;
  int64_t lo, keys;
  float *at;  // its scores, later its weights
};

// A part passes through three steps, and three parts are under way at a time: while the vectors
// turn the scores of one into weights, the tiles multiply the scores of the next and the values of
// the one before.
struct Pending {
  Part scored, weighed;
  Held held;
};

FA_INLINE TileWork scores_of(const Problem &p, const Block &b, Group g, int64_t lo, int64_t keys,
                             float *s) {
  const int64_t depth = depth_words(p.dk);
  return {b.q + g.first * depth, b.k + lo * depth, s, depth, depth * kPanel, score_step(b.step),
          g.count, round_up(keys, kPanel), depth, false, 0, 0};
}
FA_INLINE TileWork values_of(const Block &b, const Part &part) {
  return {part.at, b.v + words(part.lo) * kPanel, b.o + part.group.first * b.o_step,
          weight_step(b.step), words(b.kv_tile) * kPanel, b.o_step, part.group.count,
          b.o_step, depth_words(part.keys), true, 0, 0};
}
FA_INLINE Beside beside(const Block &b, TileWork scores, const Part &weighed) {
  const TileWork values = values_of(b, weighed);
  const int64_t first = scores.steps();
  return {scores, values, first, first + values.steps(), 0, b.pending->held};
}

FA_INLINE float unit_of(const Problem &p) { return bare_scores(p) ? p.scale * kLog2E : kLog2E; }

// Turns the scores of the pending group into weights, beside `to` steps of the products.
template <int kStep>
FA_INLINE void weigh(const Problem &p, const Block &b, Beside &work, int64_t to) {
  Part &part = b.pending->scored;
  const int64_t rows = round_up(part.group.count, kTileRows);
  const float unit = unit_of(p);
  float *out = b.p + (b.pending->weighed.at == b.p ? kGroupRows * weight_step(kStep) : 0);
  const bool exact = p.has(FA_FLAG_LSE);  // it shows the sum as it is; in O most of the error cancels
  for (int64_t i = 0; i < rows; i += kRowsATime) {
#pragma unroll 1
    for (int64_t j = i; j < i + kRowsATime; ++j) {
      const int64_t row = part.group.first + j;
      float *sum = b.sum + row * W, *to_row = out + j * weight_step(kStep);
      const float *s = part.at + j * score_step(kStep);
      if (exact) {
        weigh_row<kStep, true>(s, part.keys, unit, b.max[row], sum, to_row);
      } else {
        weigh_row<kStep, false>(s, part.keys, unit, b.max[row], sum, to_row);
      }
    }
    work.keep(i + kRowsATime, rows, 0, to);
  }
  part.at = out;
}


// Adds the values of the part whose weights are there, so that nothing is on its way to O.
inline __attribute__((noinline)) void finish_values(const Block &b) {
  Pending &pending = *b.pending;
  Beside work = beside(b, {}, pending.scored);
  work.until(work.total);
  pending.held.flush();
  pending.scored = {};
}

template <int kStep>
inline __attribute__((noinline)) void tiled_step(const Problem &p, const Block &b, Group g,
                                                 int64_t begin, int64_t lo, int64_t hi,
                                                 int64_t shared) {
  Pending &pending = *b.pending;
  const int64_t keys = hi - lo, rows = round_up(g.count, kTileRows);
  constexpr int64_t s_step = score_step(kStep);
  const bool bare = bare_scores(p);
  float *s = b.s + (pending.scored.at == b.s ? kGroupRows * s_step : 0);
  Beside work = beside(b, scores_of(p, b, g, lo, keys, s), pending.weighed);
  weigh<kStep>(p, b, work, larger(work.first, work.total * kWeighShare / 8));
  work.until(work.first);
  pending.held.flush();
  if (!bare) shared = 0;
  if (shared < keys)
    for (int64_t i = 0; i < g.count; ++i)
      adjust_row(p, masks_of(p, b, g.first + i), (b.first + g.first + i) / p.group,
                 begin + lo + shared, keys - shared, s + i * s_step + shared,
                 bare ? 1.0f : p.scale);
  const float unit = unit_of(p), room = kSlack / unit;
  const Vec slack = splat(room < 1e30f ? room : 1e30f);
  Excess excess;
  const int64_t done = work.done;
  for (int64_t i = 0; i < rows; i += kRowsATime) {
#pragma unroll 1
    for (int64_t j = i; j < i + kRowsATime; ++j)
      note_row<kStep>(s + j * s_step, keys, b.max[g.first + j], slack, excess);
    work.keep(i + kRowsATime, rows, done, work.total);
  }
  work.until(work.total);
  if (excess.any()) {
    if (pending.scored.keys && pending.scored.group.first == g.first) finish_values(b);
    for (int64_t i = 0; i < rows; i += W)
      raise_references(s + i * s_step, s_step, keys, unit, slack, b.max + g.first + i,
                       b.sum + (g.first + i) * W, b.o + (g.first + i) * b.o_step, b.o_step);
  }
  pending.weighed = pending.scored;
  pending.scored = {g, lo, keys, s};
}

// One group's part of the result, of keys [begin + lo, begin + hi).
FA_INLINE void group_step(const Problem &p, const Block &b, Group g, int64_t begin, int64_t lo,
                          int64_t hi, int64_t shared, bool) {
  if (!b.direct) {
    return with_step(b, [&](auto step) {
      for (int64_t at = lo; at < hi; at += step.value) {
        const int64_t end = smaller(at + step.value, hi), left = larger(shared - (at - lo), 0);
        tiled_step<step.value>(p, b, g, begin, at, end, smaller(left, end - at));
      }
    });
  }
  with_rows<kDirectRows>(g.count, [&](auto m) {
    direct_step<m.value>(p, b, g, begin, lo, hi, shared);
  });
}

// What the last groups of a block of keys left to do.
inline __attribute__((noinline)) void finish_steps(const Problem &p, const Block &b) {
  if (b.direct) return;
  Pending &pending = *b.pending;
  for (int i = 0; i < 2; ++i) {
    Beside work = beside(b, {}, pending.weighed);
    with_step(b, [&](auto step) { weigh<step.value>(p, b, work, work.total); });
    work.until(work.total);
    pending.weighed = pending.scored;
    pending.scored = {};
  }
  pending.held.flush();
  pending = {};
}

// P of keys [begin, begin + keys), from fresh scores and the final maxima and sums.
FA_INLINE void group_weights(const Problem &p, const Block &b, Group g, int64_t begin,
                             int64_t keys, bool, const float *factors, Element *weights) {
  for (int64_t lo = 0; lo < keys; lo += b.step) {
    const int64_t n = smaller(b.step, keys - lo);
    Beside work = beside(b, scores_of(p, b, g, lo, n, b.s), {});
    work.until(work.total);
    b.pending->held.flush();
    for (int64_t i = 0; i < g.count; ++i) {
      float *s = b.s + i * score_step(b.step);
      adjust_row(p, masks_of(p, b, g.first + i), (b.first + g.first + i) / p.group, begin + lo, n,
                 s, p.scale);
      write_weights_row(p, b, g.first + i, s, begin + lo, n, factors[g.first + i], weights);
    }
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

FA_INLINE bool overwrites(const Block &) { return false; }
FA_INLINE void begin_rows(const Problem &p, const Block &b, bool) {
  if (b.direct) {
    load_direct_rows(p, b);
  } else {
    load_tile_rows(p, b);
  }
  clear_state(b, round_up(b.count, kGroupRows), false);
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
  constexpr int64_t total = kScratchBytes / 4 - kScoreRoom - kWeightRoom - 16 * W;
  Block b = {};
  b.o_step = round_up(p.dv, kTileColumns);
  b.step = keys_a_step(p);
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
  b.s = take(kScoreRoom);
  b.p = take(kWeightRoom);
  b.k = take(b.kv_tile * depth);
  b.v = take(words(b.kv_tile) * round_up(p.dv, kPanel));
  b.o = take(b.count * b.o_step);
  b.sum = take(b.count * W);
  b.max = take(b.count);
  b.q = take(b.count * depth);  // 32 rows or more, which hold kDirectRows of f32
  return b;
}

}  // namespace
