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

// s[M][keys] = Q·Kᵀ: dot products along the head dim, W keys at a time. Rows of q are q_step apart.
template <int M>
FA_INLINE void direct_scores(const Problem &p, const float *q, int64_t q_step, const Element *k,
                             int64_t keys, float *s) {
  for (int64_t j = 0; j < keys; j += W) {
    const Element *rows[W];
    for (int i = 0; i < W; ++i) {
      rows[i] = k + (j + i < keys ? j + i : keys - 1) * p.ks.row;
      // One row of Q leaves the memory as the only limit: everything is asked for at once. With
      // more, each asks for its share of the keys, as requests that come in bursts block others.
      if constexpr (M == 1)
        for (int64_t c = 0; c < p.dk; c += kLine) prefetch_ahead(rows[i] + c);
    }
    for (int r = 0; r < M; ++r) {
      Vec acc[W] = {};
      int64_t c = 0;
      for (; c + W <= p.dk; c += W) {
        Vec x = load(q + r * q_step + c);
        constexpr int share = M == 1 ? 0 : (W + M - 1) / M;
#pragma unroll
        for (int i = 0; i < share; ++i)
          if (r * share + i < W) prefetch_ahead(rows[r * share + i] + c);
#pragma unroll
        for (int i = 0; i < W; ++i) acc[i] = fma(x, load(rows[i] + c), acc[i]);
      }
      if (c < p.dk) {
        Vec x = load(q + r * q_step + c);
#pragma unroll
        for (int i = 0; i < W; ++i) acc[i] = fma(x, load_n(rows[i] + c, p.dk - c), acc[i]);
      }
      store(s + r * kKvTile + j, reduce_sums(acc));
    }
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
    for (int j = 0; j < N; ++j) acc[i][j] = load(c + i * c_step + j * W) * splat(factor[i]);
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
    for (int j = 0; j < N; ++j) store(c + i * c_step + j * W, acc[i][j]);
}

template <int M>
FA_INLINE void direct_values(const Problem &p, const float *s, const Element *v, int64_t keys,
                             float *o, int64_t o_step, const float *factor) {
  constexpr int budget = kRows * kVectors;
  constexpr int N = M * 4 <= budget ? 4 : M * 2 <= budget ? 2 : 1;
  int64_t c = 0;
  for (; c + N * W <= p.dv; c += N * W)
    direct_tile<M, N, false>(s, v + c, p.vs.row, keys, N * W, o + c, o_step, factor);
  for (; c < p.dv; c += W)
    direct_tile<M, 1, true>(s, v + c, p.vs.row, keys, p.dv - c, o + c, o_step, factor);
}

}  // namespace
