// The register tile that both matrix products are made of:
//   C[M][N·W] (+)= A[M][k] · B[k][N·W],  rows of B b_step words apart (kPanel where it is packed).
#pragma once
#include "word.h"

namespace {

// A's element (row, k) lies at  row * kRowStep + k * kDepthStep;  both are compile-time constants,
// so a tile needs one pointer for A however many rows it has. What becomes of C at the end: it is
// overwritten (with *factor times the sums, where Q could not take the scale), or so with
// add[row][column] on top (an additive mask), or multiplied by factor[row] and added to (the
// rescaling of the online softmax; the sum over k starts at 0 then too, which keeps the chain of
// roundings short).
enum class Into { kWrite, kWriteBiased, kScaleAndAdd };

template <int M, int N, int kRowStep, int kDepthStep, Into kInto>
inline __attribute__((noinline)) void tile(const float *a, const float *b, int64_t b_step,
                                           int64_t depth, float *c, int64_t c_step,
                                           const float *factor,
                                           const float *const *add = nullptr) {
  Vec acc[M][N];
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) acc[i][j] = Vec{};
#pragma unroll 2
  for (int64_t k = 0; k < depth; ++k) {
    Vec x[N];
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = load(b + j * W);
#pragma unroll
    for (int i = 0; i < M; ++i) {
      Vec y = splat_word(a[i * kRowStep]);
#pragma unroll
      for (int j = 0; j < N; ++j) acc[i][j] = multiply_add(y, x[j], acc[i][j]);
    }
    a += kDepthStep;
    b += b_step;
  }
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float *at = c + i * c_step + j * W;
      Vec x = acc[i][j];
      if (kPair > 1 && kInto != Into::kScaleAndAdd) x *= splat(*factor);
      if (kInto == Into::kWriteBiased) x += load(add[i] + j * W);
      if (kInto == Into::kScaleAndAdd) x = fma(load(at), splat(factor[i]), x);
      store(at, x);
    }
}

// S[M][keys] = scale * Q·Kᵀ for whole panels of keys. Q of a group is packed [depth][M].
template <int M>
FA_INLINE void scores(const float *q, const float *k_panels, int64_t panels, int64_t depth,
                      float scale, float *s) {
  for (int64_t p = 0; p < panels; ++p)
    tile<M, kVectors, 1, M, Into::kWrite>(q, k_panels + p * depth * kPanel, kPanel, depth,
                                          s + p * kPanel, kKvTile, &scale);
}

// The same plus bias[row][key], from `add` on, whose pointers move along.
template <int M>
FA_INLINE void biased_scores(const float *q, const float *k_panels, int64_t panels, int64_t depth,
                             float scale, float *s, const float *(&add)[M]) {
  for (int64_t p = 0; p < panels; ++p) {
    tile<M, kVectors, 1, M, Into::kWriteBiased>(q, k_panels + p * depth * kPanel, kPanel, depth,
                                                s + p * kPanel, kKvTile, &scale, add);
    for (int i = 0; i < M; ++i) add[i] += kPanel;
  }
}

// V as the tile wants it: words, keys row_step apart, the next kPanel columns panel_step further.
struct Values {
  const float *data;
  int64_t row_step, panel_step;
};

// The last columns, fewer than a panel: as many vectors as they need (O's rows hold whole vectors).
template <int M, int N>
FA_INLINE void value_tail(int64_t vectors, const float *p, const float *b, int64_t b_step,
                          int64_t keys, float *o, int64_t o_step, const float *factor) {
  if constexpr (N > 0) {
    if (vectors == N) {
      constexpr Into into = Into::kScaleAndAdd;
      return tile<M, N, kKvTile, 1, into>(p, b, b_step, keys, o, o_step, factor);
    }
    value_tail<M, N - 1>(vectors, p, b, b_step, keys, o, o_step, factor);
  }
}

// O[M][o_step] = factor[M] * O + P·V for `keys` words of keys.
template <int M>
FA_INLINE void values(const float *p, Values v, int64_t keys, float *o, int64_t o_step,
                      const float *factor) {
  int64_t column = 0;
  for (; column + kPanel <= o_step; column += kPanel, v.data += v.panel_step)
    tile<M, kVectors, kKvTile, 1, Into::kScaleAndAdd>(p, v.data, v.row_step, keys, o + column,
                                                      o_step, factor);
  value_tail<M, kVectors - 1>((o_step - column) / W, p, v.data, v.row_step, keys, o + column,
                              o_step, factor);
}

}  // namespace
