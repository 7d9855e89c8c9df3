// Few query rows (decode): K and V are read once, where they lie. Packing would cost more than the
// products, and the time is that of the memory.
#pragma once
#include "word.h"

namespace {

// Rows of a block up to which reading in place beats packing (docs/performance.md).
constexpr int64_t kDirectRows = 8;
// How far ahead of its use memory is asked for, in bytes: into L2, from where the hardware fetches the
// rest of the way. Requests to L1 would take its few miss registers from the loads.
constexpr int64_t kAhead = 3072;
constexpr int64_t kLine = 64 / sizeof(Element);  // elements of a cache line

FA_INLINE void prefetch_ahead(const Element *x) {
  __builtin_prefetch(reinterpret_cast<const char *>(x) + kAhead, 0, 2);
}

// One scaled row of Q as f32, zero up to a whole vector.
FA_INLINE void widen_row(const Problem &p, const Element *q, float *out) {
  for (int64_t c = 0; c < p.dk; c += W) store(out + c, load_n(q + c, p.dk - c) * splat(p.scale));
}

// s[R][W / R] = Q·Kᵀ, dot products along the head dim, of R rows of Q and W / R keys, whose sums
// across lanes are taken together. `k` has the keys, `step` apart, of which `keys` exist.
template <int R, bool kPrefetch>
FA_INLINE void direct_dots(const Problem &p, const float *q, int64_t q_step, const Element *k,
                           int64_t keys, float *s) {
  constexpr int kKeys = W / R;
  const Element *rows[kKeys];
#pragma unroll
  for (int j = 0; j < kKeys; ++j) rows[j] = k + smaller(j, keys - 1) * p.ks.row;
  Vec acc[W] = {};
  auto product = [&](int j, int64_t c, Vec y) {
#pragma unroll
    for (int r = 0; r < R; ++r)
      acc[r * kKeys + j] = fma(load(q + r * q_step + c), y, acc[r * kKeys + j]);
  };
  const int64_t whole = p.dk / W * W;
  // Key by key, so that memory is read in its order; two share the loads of several rows of Q.
  constexpr int kShare = R > 1 && kKeys > 1 ? 2 : 1;
#pragma unroll
  for (int j = 0; j < kKeys; j += kShare)
    for (int64_t c = 0; c < whole; c += W)
#pragma unroll
      for (int i = j; i < j + kShare; ++i) {
        if (kPrefetch) prefetch_ahead(rows[i] + c);
        product(i, c, load(rows[i] + c));
      }
  if (whole < p.dk)
#pragma unroll
    for (int j = 0; j < kKeys; ++j)
      product(j, whole, load_n(rows[j] + whole, p.dk - whole));
  alignas(64) float sums[W];
  store(sums, reduce_sums(acc));
#pragma unroll
  for (int r = 0; r < R; ++r) __builtin_memcpy(s + r * kKvTile, sums + r * kKeys, kKeys * 4);
}

// s[M][keys] = Q·Kᵀ, W keys at a time, R rows of Q at a time: the first rows fetch K.
template <int M, int R = 4, bool kFirst = true>
FA_INLINE void direct_scores(const Problem &p, const float *q, int64_t q_step, const Element *k,
                             int64_t keys, float *s) {
  if constexpr (M < R) {
    if constexpr (M > 0) direct_scores<M, R / 2, kFirst>(p, q, q_step, k, keys, s);
  } else {
    for (int64_t j = 0; j < W; j += W / R)
      direct_dots<R, kFirst>(p, q, q_step, k + smaller(j, keys - 1) * p.ks.row,
                             larger(keys - j, 1), s + j);
    direct_scores<M - R, R, false>(p, q + R * q_step, q_step, k, keys, s + R * kKvTile);
  }
}

// C[M][N·W] = factor[M] * C + P[M][keys] · V[keys][N·W], V in place; `columns` <= N·W exist.
template <int M, int N, bool kTail>
FA_INLINE void direct_tile(const float *s, const Element *v, int64_t step, int64_t keys,
                           int64_t columns, int64_t fetched, float *c, int64_t c_step,
                           const float *factor) {
  Vec acc[M][N];
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) acc[i][j] = Vec{};
  for (int64_t key = 0; key < keys; ++key) {
    const Element *row = v + key * step;
    for (int64_t c = 0; c < fetched; c += kLine) prefetch_ahead(row + c);
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

// Two rows at a time, which leaves registers for a whole row of V in most cases.
template <int M>
FA_INLINE void direct_values(const Problem &p, const float *s, const Element *v, int64_t keys,
                             float *o, int64_t o_step, const float *factor) {
  constexpr int R = M < 2 ? M : 2, N = R * 8 <= kRows * kVectors ? 8 : 4;  // 4 fit everywhere
  // A few keys at a time, so that further passes over V find it in the cache.
  constexpr int64_t kKeys = 16;
  float ones[W];
  store(ones, splat(1.0f));
  auto rows = [&](auto count, int64_t first, int64_t begin, int64_t n) {
    constexpr int C = count.value;
    const float *moved = begin ? ones : factor + first, *w = s + begin + first * kKvTile;
    float *out = o + first * o_step;
    int64_t c = 0, fetched = first ? 0 : p.dv;
    for (; c + N * W <= p.dv; c += N * W, fetched = 0)
      direct_tile<C, N, false>(w, v + c, p.vs.row, n, N * W, fetched, out + c, o_step, moved);
    for (; c + 4 * W <= p.dv; c += 4 * W, fetched = 0)
      direct_tile<C, 4, false>(w, v + c, p.vs.row, n, 4 * W, fetched, out + c, o_step, moved);
    for (; c < p.dv; c += W, fetched = 0)
      direct_tile<C, 1, true>(w, v + c, p.vs.row, n, p.dv - c, fetched, out + c, o_step, moved);
  };
  for (int64_t begin = 0; begin < keys; begin += kKeys) {
    const int64_t n = smaller(kKeys, keys - begin);
    for (int64_t first = 0; first + R <= M; first += R) rows(Constant<R>{}, first, begin, n);
    if constexpr (M % R) rows(Constant<M % R>{}, M / R * R, begin, n);
    v += n * p.vs.row;
  }
}

}  // namespace
