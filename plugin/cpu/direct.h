// Few query rows (decode): K and V are read once, where they lie. Packing would cost more than the
// products, and the time is that of the memory.
#pragma once
#include "gemm.h"
#include "problem.h"

namespace {

// Rows of a block up to which reading in place beats packing (docs/performance.md).
constexpr int64_t kDirectRows = 8;
// How far ahead of its use memory is asked for, in bytes.
constexpr int64_t kAhead = 8192;
constexpr int64_t kLine = 64 / sizeof(Element);  // elements of a cache line

FA_INLINE void prefetch_ahead(const Element *x) {
  __builtin_prefetch(reinterpret_cast<const char *>(x) + kAhead);
}

// One scaled row of Q as f32, zero up to a whole vector.
FA_INLINE void widen_row(const Problem &p, const Element *q, float *out) {
  for (int64_t c = 0; c < p.dk; c += W) store(out + c, load_n(q + c, p.dk - c) * splat(p.scale));
}

// s[R][W / R] = Q·Kᵀ, dot products along the head dim, of R rows of Q and W / R keys: a load of K
// serves R products, and the W sums across lanes are taken together.
template <int R, bool kPrefetch>
FA_INLINE void direct_dots(const Problem &p, const float *q, int64_t q_step,
                           const Element *const *rows, float *s) {
  constexpr int kKeys = W / R;
  Vec acc[W] = {}, x[R];
  int64_t c = 0;
  for (; c + W <= p.dk; c += W) {
#pragma unroll
    for (int r = 0; r < R; ++r) x[r] = load(q + r * q_step + c);
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      if (kPrefetch) prefetch_ahead(rows[j] + c);
      const Vec y = load(rows[j] + c);
#pragma unroll
      for (int r = 0; r < R; ++r) acc[r * kKeys + j] = fma(x[r], y, acc[r * kKeys + j]);
    }
  }
  if (c < p.dk) {
#pragma unroll
    for (int r = 0; r < R; ++r) x[r] = load(q + r * q_step + c);
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const Vec y = load_n(rows[j] + c, p.dk - c);
#pragma unroll
      for (int r = 0; r < R; ++r) acc[r * kKeys + j] = fma(x[r], y, acc[r * kKeys + j]);
    }
  }
  alignas(64) float sums[W];
  store(sums, reduce_sums(acc));
#pragma unroll
  for (int r = 0; r < R; ++r) __builtin_memcpy(s + r * kKvTile, sums + r * kKeys, kKeys * 4);
}

// s[M][keys] = Q·Kᵀ, W keys at a time, four rows at a time. Rows of q are q_step apart.
template <int M>
FA_INLINE void direct_scores(const Problem &p, const float *q, int64_t q_step, const Element *k,
                             int64_t keys, float *s) {
  constexpr int kFours = M / 4 * 4, kTwos = M / 2 * 2;
  for (int64_t j = 0; j < keys; j += W) {
    const Element *rows[W];
    for (int i = 0; i < W; ++i) {
      rows[i] = k + (j + i < keys ? j + i : keys - 1) * p.ks.row;
      // One row of Q leaves the memory as the only limit: everything is asked for at once. With
      // more, each key is asked for where its like is used: bursts of requests block others.
      if constexpr (M == 1)
        for (int64_t c = 0; c < p.dk; c += kLine) prefetch_ahead(rows[i] + c);
    }
    float *out = s + j;
    for (int r = 0; r < kFours; r += 4)
      for (int i = 0; i < W; i += W / 4) {
        if (r == 0)
          direct_dots<4, true>(p, q, q_step, rows + i, out + i);
        else
          direct_dots<4, false>(p, q + r * q_step, q_step, rows + i, out + r * kKvTile + i);
      }
    if constexpr (kTwos > kFours)
      for (int i = 0; i < W; i += W / 2)
        direct_dots<2, kFours == 0>(p, q + kFours * q_step, q_step, rows + i,
                                    out + kFours * kKvTile + i);
    if constexpr (M > kTwos)
      direct_dots<1, false>(p, q + kTwos * q_step, q_step, rows, out + kTwos * kKvTile);
  }
}

// C[M][N·W] = factor[M] * C + P[M][keys] · V[keys][N·W], V in place; `columns` <= N·W exist.
template <int M, int N, bool kTail>
FA_INLINE void direct_tile(const float *s, const Element *v, int64_t step, int64_t keys,
                           int64_t columns, float *c, int64_t c_step, const float *factor) {
  Vec acc[M][N];
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) acc[i][j] = Vec{};
  for (int64_t key = 0; key < keys; ++key) {
    const Element *row = v + key * step;
    for (int64_t c = 0; c < columns; c += kLine) prefetch_ahead(row + c);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      Vec x = kTail ? load_n(row + j * W, columns - j * W) : load(row + j * W);
#pragma unroll
      for (int i = 0; i < M; ++i) acc[i][j] = fma(splat(s[i * kKvTile + key]), x, acc[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float *at = c + i * c_step + j * W;
      store(at, fma(load(at), splat(factor[i]), acc[i][j]));
    }
}

template <int M>
FA_INLINE void direct_values(const Problem &p, const float *s, const Element *v, int64_t keys,
                             float *o, int64_t o_step, const float *factor) {
  constexpr int budget = kRows * kVectors;
  constexpr int N = M * 4 <= budget ? 4 : M * 2 <= budget ? 2 : 1;
  // A few keys at a time, so that the passes over the columns of V read it almost in order.
  constexpr int64_t kKeys = 32;
  float ones[W];
  store(ones, splat(1.0f));
  for (int64_t begin = 0; begin < keys; begin += kKeys) {
    const int64_t n = smaller(kKeys, keys - begin);
    const float *moved = begin ? ones : factor;
    int64_t c = 0;
    for (; c + N * W <= p.dv; c += N * W)
      direct_tile<M, N, false>(s + begin, v + c, p.vs.row, n, N * W, o + c, o_step, moved);
    for (; c < p.dv; c += W)
      direct_tile<M, 1, true>(s + begin, v + c, p.vs.row, n, p.dv - c, o + c, o_step, moved);
    v += n * p.vs.row;
  }
}

}  // namespace
