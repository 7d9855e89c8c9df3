// The two matrix products on tiles, in blocks of 2 x 2: tiles 0 to 3 are C, 4 and 5 rows of A,
// 6 and 7 columns of B. Operands are packed (pack.h) and padded to whole tiles.
#pragma once
#include <amx.h>

#include "word.h"

namespace {

static_assert(kPanel == 2 * kTileColumns, "a row of a panel is a row of two tiles");
// Keys that a group takes at a time. A step reads and writes O once, which weighs the more the wider
// the heads are; the fewer keys, the better do scores, weights and O stay in the first-level cache,
// through which K and V stream. Measured (docs/performance.md): 128 keys are some 10 % faster than
// 256 at D 64, 256 faster than 128 by 4 % at D 80 and 7 % at D 128 and 256.
constexpr int kShortStep = 128, kLongStep = 256;
FA_INLINE int64_t keys_a_step(const Problem &p) {
  return p.dk <= 64 && p.dv <= 64 ? kShortStep : kLongStep;
}
static_assert(kShortStep % kPanel == 0 && kLongStep % kPanel == 0 && kLongStep <= kKvTile);
// Words between rows of scores (f32) and of weights (bf16). Not powers of two, which would put all
// rows of a tile into a few sets of the cache.
constexpr int64_t score_step(int64_t keys) { return keys + 16; }
constexpr int64_t weight_step(int64_t keys) { return keys / 2 + 16; }

// Where tile T of a block of 2 x 2 lies.
template <int T>
FA_INLINE float *tile_of(float *c, int64_t step) {
  return c + T / 2 * kTileRows * step + T % 2 * kTileColumns;
}

// A block of sums that is complete, but still in its tiles. It is stored when these are needed
// again: a store that has to wait for its sums keeps everything behind it from starting.
struct Held {
  float *to;
  int64_t step;
  bool tall, wide;  // 2 tiles of rows, of columns

  inline __attribute__((noinline)) void flush() {
    if (!to) return;
    tile_store<0>(to, step);
    if (wide) tile_store<1>(tile_of<1>(to, step), step);
    if (tall) tile_store<2>(tile_of<2>(to, step), step);
    if (tall && wide) tile_store<3>(tile_of<3>(to, step), step);
    to = nullptr;
  }
};

// A product of a group's rows with panels of B, given out in steps of one tile along the summed
// dimension: the tiles are slow to answer, so there is other work between the steps.
struct TileWork {
  const float *a, *b;  // rows a_step words apart, panels b_step
  float *c;            // rows c_step words apart
  int64_t a_step, b_step, c_step;
  int64_t rows, columns, depth;  // of C, and the summed dimension in words
  bool add;                      // to what C holds
  int64_t panel, at;             // where the next step is

  FA_INLINE int64_t steps() const {
    return (columns + kPanel - 1) / kPanel * (depth / kTileColumns);
  }

  // Tile T begins a new sum; what it holds is stored first.
  template <int T, bool kStore>
  FA_INLINE void renew(const Held &held, float *to) {
    if constexpr (kStore) tile_store<T>(tile_of<T>(held.to, held.step), held.step);
    if (add) {
      tile_load<T>(tile_of<T>(to, c_step), c_step);
    } else {
      tile_zero<T>();
    }
  }

  // C[16 R][16 N] += A · B for one tile along the summed dimension. R and N are 1 or 2.
  template <int R, int N, bool kFirst, bool kStore>
  FA_INLINE void products(const Held &held, float *to) {
    const float *x = a + at, *y = b + panel * b_step + at * kPanel;
    tile_load<6>(y, kPanel);
    if constexpr (N > 1) tile_load<7>(y + kTileColumns, kPanel);
    tile_load<4>(x, a_step);
    if constexpr (kFirst) renew<0, kStore>(held, to);
    tile_dot<0, 4, 6>();
    if constexpr (kFirst && N > 1) renew<1, kStore>(held, to);
    if constexpr (N > 1) tile_dot<1, 4, 7>();
    if constexpr (R > 1) {
      tile_load<5>(x + kTileRows * a_step, a_step);
      if constexpr (kFirst) renew<2, kStore>(held, to);
      tile_dot<2, 5, 6>();
      if constexpr (kFirst && N > 1) renew<3, kStore>(held, to);
      if constexpr (N > 1) tile_dot<3, 5, 7>();
    }
  }

  template <int R, int N>
  FA_INLINE void step_of(Held &held) {
    float *to = c + panel * kPanel;
    if (at > 0) {
      products<R, N, false, false>(held, to);
    } else if (held.to && held.tall == (R > 1) && held.wide == (N > 1)) {
      products<R, N, true, true>(held, to);
      held.to = nullptr;
    } else {
      held.flush();
      products<R, N, true, false>(held, to);
    }
    at += kTileColumns;
    if (at < depth) return;
    held = {to, c_step, R > 1, N > 1};
    at = 0;
    ++panel;
  }

  inline __attribute__((noinline)) void step(Held &held) {
    const bool narrow = columns - panel * kPanel <= kTileColumns;
    if (rows > kTileRows) {
      if (narrow) return step_of<2, 1>(held);
      return step_of<2, 2>(held);
    }
    if (narrow) return step_of<1, 1>(held);
    step_of<1, 2>(held);
  }
};

// Two products, one after the other, that pass by in steps while other work is done.
struct Beside {
  TileWork scores, values;
  int64_t first, total, done;  // steps: of the scores, of both
  Held &held;

  // Goes on to step from + part / parts * (to - from).
  FA_INLINE void keep(int64_t part, int64_t parts, int64_t from, int64_t to) {
    for (; (done - from) * parts < part * (to - from); ++done)
      (done < first ? scores : values).step(held);
  }
  FA_INLINE void until(int64_t to) { keep(1, 1, 0, to); }
};

}  // namespace
