// Online softmax over the rows of one register tile (FlashAttention-2, section 3.1.1), in natural
// units: scores near the float limit would overflow if they were kept times log2 e.
#pragma once
#include "problem.h"

namespace {

// A running maximum of -inf means that nothing was visible yet; 0 in its place keeps -inf - -inf
// out of the arithmetic.
FA_INLINE float finite_max(float m) { return m == -kInf ? 0.0f : m; }

// e^(x - m) for x <= m: one fused multiplication when m * log2 e is far from overflow.
template <bool kHuge>
FA_INLINE Vec probability(Vec x, Vec m, Vec m_log2) {
  return kHuge ? exp2((x - m) * splat(kLog2E)) : exp2(fma(x, splat(kLog2E), -m_log2));
}

template <int M, bool kHuge>
FA_INLINE void exponentiate(float *s, int64_t keys, const float *old_max, const float *new_max,
                            float *sum_of, float *factor) {
  // An old maximum of -inf makes the factor 0, which is right: nothing was accumulated.
  const Vec all = load(new_max);
  store(factor, probability<kHuge>(load(old_max), all, all * splat(kLog2E)));
  for (int i = 0; i < M; ++i) {
    float *row = s + i * kKvTile;
    const Vec m = splat(new_max[i]), m_log2 = m * splat(kLog2E);
    Vec sum = load(sum_of + i * W) * splat(factor[i]);
#pragma unroll 2
    for (int64_t j = 0; j < keys; j += W) {
      Vec e = probability<kHuge>(load(row + j), m, m_log2);
      store(row + j, e);
      sum += e;
    }
    store(sum_of + i * W, sum);
  }
}

// For each of M rows: s[row][0, keys) becomes exp(s - max), `sum` (W partial sums a row) and `max`
// move on, and factor[row] is what earlier sums and outputs have to be multiplied by. Lanes of the
// last vector beyond `keys` hold garbage on entry and zeros on return.
template <int M>
FA_INLINE void softmax_step(float *s, int64_t keys, float *max_of, float *sum_of, float *factor) {
  const int64_t whole = keys / W * W;
  const Int beyond = lane_index() >= splat_i(int32_t(keys - whole));
  float old_max[W], new_max[W];
  bool huge = false;
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
    huge |= !(__builtin_fabsf(new_max[i]) < 1e38f);
  }
  if (huge) {
    exponentiate<M, true>(s, keys, old_max, new_max, sum_of, factor);
  } else {
    exponentiate<M, false>(s, keys, old_max, new_max, sum_of, factor);
  }
}

}  // namespace
