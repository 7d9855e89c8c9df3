// Online softmax on the rows of tiles: as softmax.h, on scores in units of which `unit` make one
// power of two, with weights that become bf16 in place. It comes in two steps: all that needs a
// row's scores as a whole, then the weights row by row, so that a product can run beside these.
#pragma once
#include "gemm_tiles.h"
#include "shuffle.h"
#include "softmax.h"

namespace {

// Moves on the maxima of W rows, kScoreStep apart, of `keys` scores, and scales what their sums and
// outputs hold already. Beyond the keys `s` holds garbage on entry, and -inf up to a whole tile on
// return.
inline __attribute__((noinline)) void move_maxima(float *s, int64_t keys, float unit, float *max_of,
                                                  float *sum_of, float *o, int64_t o_step) {
  const int64_t whole = keys / W * W, all = round_up(keys, 2 * kTileColumns);
  const Int beyond = lane_index() >= splat_i(int32_t(keys - whole));
  Vec top[W];
  for (int i = 0; i < W; ++i) {
    float *row = s + i * kScoreStep;
    Vec m = splat(-kInf);
#pragma unroll 4
    for (int64_t j = 0; j < whole; j += W) m = max(m, load(row + j));
    for (int64_t j = whole; j < all; j += W) {
      Vec x = splat(-kInf);
      if (j == whole) x = beyond ? x : load(row + j);
      store(row + j, x);
      m = max(m, x);
    }
    top[i] = m;
  }
  // From here one lane is one row; see softmax.h on -inf.
  const Vec old_max = load(max_of), new_max = max(old_max, reduce_maxes(top));
  store(max_of, new_max);
  const Vec finite = new_max == splat(-kInf) ? Vec{} : new_max;
  alignas(64) float factor[W];
  store(factor, exp2((old_max - finite) * splat(unit)));
  for (int i = 0; i < W; ++i) {
    if (factor[i] == 1.0f) continue;
    const Vec f = splat(factor[i]);
    store(sum_of + i * W, load(sum_of + i * W) * f);
    for (int64_t c = 0; c < o_step; c += W)
      store(o + i * o_step + c, load(o + i * o_step + c) * f);
  }
}

template <bool kExact>
FA_INLINE Vec weight(Vec x) {
  if constexpr (kExact) return exp2(x);
  return exp2_coarse(x);
}

// One row's scores become weights, as bf16 and, up to a whole tile, 0 beyond the keys.
template <bool kExact>
FA_INLINE void weigh_row(float *row, int64_t keys, float unit, float max, float *sum_of) {
  const Vec m = splat(finite_max(max)), c = splat(unit);
  Vec sum[2] = {};
#pragma unroll 2
  for (int64_t j = 0; j < keys; j += 2 * W) {
    const Vec low = weight<kExact>((load(row + j) - m) * c);
    const Vec high = weight<kExact>((load(row + j + W) - m) * c);
    sum[0] += low;
    sum[1] += high;
    store(row + j / 2, narrow_words(low, high));
  }
  store(sum_of, load(sum_of) + (sum[0] + sum[1]));
}

}  // namespace
