// Online softmax on the rows of tiles: as softmax.h, on scores of which one counts `unit` powers of
// two, with weights that become bf16. Exponents are taken from a reference that follows the row's
// maximum at a distance.
#pragma once
#include "gemm_tiles.h"
#include "shuffle.h"
#include "softmax.h"

namespace {

// Exponents may reach this power of two before a row's reference is raised to its maximum: most
// blocks of keys then leave the outputs as they are (FlashAttention-4's conditional rescaling).
constexpr float kSlack = 8.0f;

// Whether some of `keys` scores lies more than `slack` above the reference. Beyond the keys `row`
// holds garbage on entry, and -inf up to a whole tile on return.
struct Excess {
#if defined(__AVX512F__)
  __mmask16 lanes = 0;
  FA_INLINE void note(Vec x, Vec limit) { lanes |= _mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ); }
  FA_INLINE bool any() const { return lanes != 0; }
#else
  Int lanes = {};
  FA_INLINE void note(Vec x, Vec limit) { lanes |= x > limit; }
  FA_INLINE bool any() const {
    int32_t all = 0;
    for (int i = 0; i < W; ++i) all |= lanes[i];
    return all != 0;
  }
#endif
};

template <int kStep>
FA_INLINE void note_row(float *row, int64_t keys, float reference, Vec slack, Excess &excess) {
  Vec m = splat(-kInf);
  if (keys == kStep) {
#pragma unroll
    for (int64_t j = 0; j < kStep; j += W) m = max(m, load(row + j));
  } else {
    const int64_t whole = keys / W * W, all = round_up(keys, 2 * kTileColumns);
    for (int64_t j = 0; j < whole; j += W) m = max(m, load(row + j));
    for (int64_t j = whole; j < all; j += W) {
      const Int beyond = lane_index() >= splat_i(int32_t(keys - j));
      const Vec x = beyond ? splat(-kInf) : load(row + j);
      store(row + j, x);
      m = max(m, x);
    }
  }
  excess.note(m, splat(reference) + slack);
}

// Raises the references of W rows, s_step apart, to their maxima where these exceed them by more
// than the slack, and scales what their sums and outputs hold already.
inline __attribute__((noinline)) void raise_references(const float *s, int64_t s_step,
                                                       int64_t keys, float unit, Vec slack,
                                                       float *max_of, float *sum_of, float *o,
                                                       int64_t o_step) {
  Vec top[W];
  for (int i = 0; i < W; ++i) {
    top[i] = splat(-kInf);
    for (int64_t j = 0; j < keys; j += W) top[i] = max(top[i], load(s + i * s_step + j));
  }
  // From here one lane is one row; see softmax.h on -inf.
  const Vec old_max = load(max_of), highest = reduce_maxes(top);
  const Vec new_max = highest > old_max + slack ? highest : old_max;
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

// One row's scores become weights, as bf16 in `out` and, up to a whole tile, 0 beyond the keys.
template <int kStep, bool kExact, bool kFold, bool kWhole>
FA_INLINE void weigh_keys(const float *row, int64_t keys, float unit, float max, float *sum_of,
                          float *out) {
  const Vec m = splat(kFold ? -max * unit : max), c = splat(unit);
  Vec sum[2] = {};
  auto weights = [&](int64_t j) {
    auto exponent = [&](Vec x) { return kFold ? fma(x, c, m) : (x - m) * c; };
    const Vec low = weight<kExact>(exponent(load(row + j)));
    const Vec high = weight<kExact>(exponent(load(row + j + W)));
    sum[0] += low;
    sum[1] += high;
    store(out + j / 2, narrow_words(low, high));
  };
  if constexpr (kWhole) {
#pragma unroll
    for (int64_t j = 0; j < kStep; j += 2 * W) weights(j);
  } else {
    for (int64_t j = 0; j < keys; j += 2 * W) weights(j);
  }
  store(sum_of, load(sum_of) + (sum[0] + sum[1]));
}

// The exponent takes one operation instead of two where the reference is so small that its rounding
// does not count beside that of the weights.
template <int kStep, bool kExact>
FA_INLINE void weigh_row(const float *row, int64_t keys, float unit, float max, float *sum_of,
                         float *out) {
  max = finite_max(max);
  const bool fold = !kExact && __builtin_fabsf(max) * unit < 4096.0f;
  if (fold && keys == kStep)
    return weigh_keys<kStep, kExact, !kExact, true>(row, keys, unit, max, sum_of, out);
  if (fold) return weigh_keys<kStep, kExact, !kExact, false>(row, keys, unit, max, sum_of, out);
  weigh_keys<kStep, kExact, false, false>(row, keys, unit, max, sum_of, out);
}

}  // namespace
