// The register tile that both matrix products are made of:
//   C[M][N·W] (+)= A[M][k] · B[k][N·W],  rows of B b_step words apart (kPanel where it is packed).
#pragma once
#include "pack.h"

namespace {

// A's rows are kRowStep words apart, a compile-time constant, so that a tile needs one pointer for A
// however many rows it has; of a deeper A, every kRowStep words along k lie `a_step` words after the
// ones before. What becomes of C at the end: it is overwritten (with *factor times the sums, where Q
// could not take the scale), or so with add[row][column] on top (an additive mask), or multiplied by
// factor[row] and added to (the rescaling of the online softmax; the sum over k starts at 0 then
// too, which keeps the chain of roundings short), or overwritten if there are no factors.
enum class Into { kWrite, kWriteBiased, kScaleAndAdd };

template <int M, int N, int kRowStep, Into kInto>
inline __attribute__((noinline)) void tile(const float *a, int64_t a_step, const float *b,
                                           int64_t b_step, int64_t depth, float *c, int64_t c_step,
                                           const float *factor,
                                           const float *const *add = nullptr) {
  Vec acc[M][N];
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) acc[i][j] = Vec{};
  for (; depth > 0; depth -= kRowStep, a += a_step) {
    const int64_t words = smaller(depth, kRowStep);
#pragma unroll 2
    for (int64_t k = 0; k < words; ++k, b += b_step) {
      Vec x[N];
#pragma unroll
      for (int j = 0; j < N; ++j) x[j] = load(b + j * W);
#pragma unroll
      for (int i = 0; i < M; ++i) {
        Vec y = splat_word(a[i * kRowStep + k]);
#pragma unroll
        for (int j = 0; j < N; ++j) acc[i][j] = multiply_add(y, x[j], acc[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float *at = c + i * c_step + j * W;
      Vec x = acc[i][j];
      if (kPair > 1 && kInto != Into::kScaleAndAdd) x *= splat(*factor);
      if (kInto == Into::kWriteBiased) x += load(add[i] + j * W);
      if (kInto == Into::kScaleAndAdd && factor) x = fma(load(at), splat(factor[i]), x);
      store(at, x);
    }
}

// Q as the tile wants it, its rows kQChunk words apart (pack.h).
struct Queries {
  const float *data;
  int64_t step;
};

// S[M][keys] = scale * Q·Kᵀ. The last panel is computed half where its keys fill no more.
template <int M>
FA_INLINE void scores(Queries q, const float *k_panels, int64_t keys, int64_t depth, float scale,
                      float *s) {
  constexpr Into into = Into::kWrite;
  for (; keys > 0; keys -= kPanel, k_panels += depth * kPanel, s += kPanel)
    if (keys > kPanel / 2)
      tile<M, kVectors, kQChunk, into>(q.data, q.step, k_panels, kPanel, depth, s, kKvTile, &scale);
    else
      tile<M, kVectors / 2, kQChunk, into>(q.data, q.step, k_panels, kPanel, depth, s, kKvTile,
                                           &scale);
}

// One tile of S with Q where it lies, its rows `step` apart: a pointer for every three rows, from
// which the others are within reach of one address.
template <int M, int N>
inline __attribute__((noinline)) void row_tile(const float *q, int64_t step, const float *k_panel,
                                               int64_t depth, float scale, float *s) {
  const float *rows[(M + 2) / 3];
#pragma unroll
  for (int i = 0; i < M; i += 3) rows[i / 3] = q + i * step;
  Vec acc[M][N];
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) acc[i][j] = Vec{};
#pragma unroll 1
  for (int64_t k = 0; k < depth; ++k, k_panel += kPanel) {
    Vec x[N];
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = load(k_panel + j * W);
#pragma unroll
    for (int i = 0; i < M; ++i) {
      const Vec y = splat(rows[i / 3][i % 3 * step + k]);
#pragma unroll
      for (int j = 0; j < N; ++j) acc[i][j] = fma(y, x[j], acc[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j)
      store(s + i * kKvTile + j * W, acc[i][j] * splat(scale));
}

// The same with Q where it lies.
template <int M>
FA_INLINE void row_scores(const float *q, int64_t step, const float *k_panels, int64_t keys,
                          int64_t depth, float scale, float *s) {
  for (; keys > 0; keys -= kPanel, k_panels += depth * kPanel, s += kPanel)
    if (keys > kPanel / 2)
      row_tile<M, kVectors>(q, step, k_panels, depth, scale, s);
    else
      row_tile<M, kVectors / 2>(q, step, k_panels, depth, scale, s);
}

// scores() plus bias[row][key], from `add` on, whose pointers move along.
template <int M>
FA_INLINE void biased_scores(Queries q, const float *k_panels, int64_t panels, int64_t depth,
                             float scale, float *s, const float *(&add)[M]) {
  for (int64_t p = 0; p < panels; ++p) {
    tile<M, kVectors, kQChunk, Into::kWriteBiased>(q.data, q.step, k_panels + p * depth * kPanel,
                                                   kPanel, depth, s + p * kPanel, kKvTile, &scale,
                                                   add);
    for (int i = 0; i < M; ++i) add[i] += kPanel;
  }
}

// V as the tile wants it: words, keys row_step apart, the next kPanel columns panel_step further.
struct Values {
  const float *data;
  int64_t row_step, panel_step;
};

typedef float HalfVec __attribute__((vector_size(W * 2)));
typedef float HalfVecU __attribute__((vector_size(W * 2), aligned(4)));
constexpr bool kHalves = W >= 8 && kPair == 1;

// C[M][W/2] = factor[M] * C + A[M][depth] · B[depth][W/2]: the last columns where half a vector
// holds them (head dims 40, 72). Processors that run wide vectors in two halves gain by it.
template <int M>
inline __attribute__((noinline)) void half_tile(const float *a, const float *b, int64_t b_step,
                                                int64_t depth, float *c, int64_t c_step,
                                                const float *factor) {
  auto half = [](float x) { return x - HalfVec{}; };
  HalfVec acc[M];
#pragma unroll
  for (int i = 0; i < M; ++i) acc[i] = HalfVec{};
#pragma unroll 2
  for (int64_t k = 0; k < depth; ++k) {
    const HalfVec x = *reinterpret_cast<const HalfVecU *>(b + k * b_step);
#pragma unroll
    for (int i = 0; i < M; ++i)
      acc[i] = __builtin_elementwise_fma(half(a[i * kKvTile + k]), x, acc[i]);
  }
#pragma unroll
  for (int i = 0; i < M; ++i) {
    HalfVecU *at = reinterpret_cast<HalfVecU *>(c + i * c_step);
    *at = factor ? __builtin_elementwise_fma(HalfVec(*at), half(factor[i]), acc[i]) : acc[i];
  }
}

// The last columns, fewer than a panel: as many vectors as they need (O's rows hold whole vectors).
template <int M, int N>
FA_INLINE void value_tail(int64_t vectors, const float *p, const float *b, int64_t b_step,
                          int64_t keys, float *o, int64_t o_step, const float *factor) {
  if constexpr (N > 0) {
    if (vectors == N) {
      constexpr Into into = Into::kScaleAndAdd;
      return tile<M, N, kKvTile, into>(p, 0, b, b_step, keys, o, o_step, factor);
    }
    value_tail<M, N - 1>(vectors, p, b, b_step, keys, o, o_step, factor);
  }
}

// O[M][o_step] = factor[M] * O (nothing without factors) + P·V for `keys` words of keys, of V's `columns`. The lanes
// of O's last vector that are not needed may stay as they are.
template <int M>
FA_INLINE void values(const float *p, Values v, int64_t keys, int64_t columns, float *o,
                      int64_t o_step, const float *factor) {
  int64_t column = 0;
  for (; column + kPanel <= o_step; column += kPanel, v.data += v.panel_step)
    tile<M, kVectors, kKvTile, Into::kScaleAndAdd>(p, 0, v.data, v.row_step, keys, o + column,
                                                   o_step, factor);
  const int64_t left = columns - column;
  if constexpr (kHalves)
    if (left > 0 && left <= W / 2)
      return half_tile<M>(p, v.data, v.row_step, keys, o + column, o_step, factor);
  value_tail<M, kVectors - 1>((o_step - column) / W, p, v.data, v.row_step, keys, o + column,
                              o_step, factor);
}

}  // namespace
