// Online softmax over the rows of one register tile (FlashAttention-2, section 3.1.1), in natural
// units: scores near the float limit would overflow if they were kept times log2 e.
#pragma once
#include "word.h"

namespace {

FA_INLINE float finite_max(float m) { return m == -kInf ? 0.0f : m; }

// For each of M rows: s[row][0, keys) becomes exp(s - max), `sum` (W partial sums a row) and `max`
// move on, and factor[row] is what earlier sums and outputs have to be multiplied by. Lanes of the
// last vector beyond `keys` hold garbage on entry and zeros on return. kCoarse: weights to four
// digits, which will do where they become bf16.
template <int M, bool kCoarse = false>
FA_INLINE void softmax_step(float *s, int64_t keys, float *max_of, float *sum_of, float *factor) {
  const int64_t whole = keys / W * W;
  const Int beyond = lane_index() >= splat_i(int32_t(keys - whole));
  Vec top[W];
#pragma unroll
  for (int i = M; i < W; ++i) top[i] = Vec{};
  for (int i = 0; i < M; ++i) {
    float *row = s + i * kKvTile;
    Vec m = splat(-kInf);
#pragma unroll 4
    for (int64_t j = 0; j < whole; j += W) m = max(m, load(row + j));
    if (whole < keys) {
      Vec x = beyond ? splat(-kInf) : load(row + whole);
      store(row + whole, x);
      m = max(m, x);
    }
    top[i] = m;
  }
  // From here one lane is one row. A maximum of -inf means that nothing was visible yet; 0 in its
  // place keeps -inf - -inf out of the arithmetic, and an old one of -inf makes the factor 0.
  const Vec old_max = load_n(max_of, M), new_max = max(old_max, reduce_maxes(top));
  store_n(max_of, new_max, M);
  float base[W];
  const Vec finite = new_max == splat(-kInf) ? Vec{} : new_max;
  store(base, finite);
  store(factor, exp_nonpositive(old_max - finite));
  for (int i = 0; i < M; ++i) {
    float *row = s + i * kKvTile;
    const Vec m = splat(base[i]);
    // Summed apart: many small weights of equal size, added one by one to a large sum, would all
    // be rounded the same way.
    Vec sum = {};
#pragma unroll 2
    for (int64_t j = 0; j < keys; j += W) {
      // Not one fused x * log2 e - m * log2 e: its rounding error grows with the maximum.
      Vec e = exp_nonpositive<kCoarse>(load(row + j) - m);
      store(row + j, e);
      sum += e;
    }
    store(sum_of + i * W, fma(load(sum_of + i * W), splat(factor[i]), sum));
  }
}

// P as the words that P·V takes, in place.
template <int M>
FA_INLINE void narrow_weights(float *s, int64_t keys) {
#if defined(FA_DOT_BF16)
  for (int i = 0; i < M; ++i) {
    float *row = s + i * kKvTile;
    for (int64_t j = 0; j < keys; j += 2 * W)
      store(row + j / 2, narrow_words(load(row + j), j + W < keys ? load(row + j + W) : Vec{}));
  }
#endif
}

}  // namespace
