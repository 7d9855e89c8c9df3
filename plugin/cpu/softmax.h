// Online softmax over the rows of one register tile (FlashAttention-2, section 3.1.1), in natural
// units: scores near the float limit would overflow if they were kept times log2 e.
#pragma once
#include "problem.h"

namespace {

// A running maximum of -inf means that nothing was visible yet; 0 in its place keeps -inf - -inf
// out of the arithmetic.
FA_INLINE float finite_max(float m) { return m == -kInf ? 0.0f : m; }

// For each of M rows: s[row][0, keys) becomes exp(s - max), `sum` (W partial sums a row) and `max`
// move on, and factor[row] is what earlier sums and outputs have to be multiplied by. Lanes of the
// last vector beyond `keys` hold garbage on entry and zeros on return.
template <int M>
FA_INLINE void softmax_step(float *s, int64_t keys, float *max_of, float *sum_of, float *factor) {
  const int64_t whole = keys / W * W;
  const Int beyond = lane_index() >= splat_i(int32_t(keys - whole));
  float old_max[W], new_max[W];
  for (int i = 0; i < W; ++i) old_max[i] = new_max[i] = 0.0f;
  for (int i = 0; i < M; ++i) {
    float *row = s + i * kKvTile;
    Vec m = splat(max_of[i]);
#pragma unroll 4
    for (int64_t j = 0; j < whole; j += W) m = max(m, load(row + j));
    if (whole < keys) {
      Vec x = beyond ? splat(-kInf) : load(row + whole);
      store(row + whole, x);
      m = max(m, x);
    }
    old_max[i] = max_of[i];
    max_of[i] = reduce_max(m);
    new_max[i] = finite_max(max_of[i]);
  }
  // An old maximum of -inf makes the factor 0, which is right: nothing was accumulated.
  store(factor, exp_nonpositive(load(old_max) - load(new_max)));
  for (int i = 0; i < M; ++i) {
    float *row = s + i * kKvTile;
    const Vec m = splat(new_max[i]);
    Vec sum = load(sum_of + i * W) * splat(factor[i]);
#pragma unroll 2
    for (int64_t j = 0; j < keys; j += W) {
      // Not one fused x * log2 e - m * log2 e: its rounding error grows with the maximum.
      Vec e = exp_nonpositive(load(row + j) - m);
      store(row + j, e);
      sum += e;
    }
    store(sum_of + i * W, sum);
  }
}

}  // namespace
