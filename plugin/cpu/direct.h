// Few query rows (decode): K and V are read once, where they lie. Packing would cost more than the
// products, and the time is that of the memory.
#pragma once
#include "word.h"

namespace {

// Rows of a block up to which reading in place beats packing (docs/performance.md).
constexpr int64_t kDirectRows = 8;
// How far ahead of its use memory is asked for, in bytes: into L2, from where the hardware fetches the
// rest of the way. Requests to L1 would take its few miss registers from the loads. Several rows' products
// take so long that nearer requests would come too late; with one row of f32 the hardware keeps ahead
// by itself, and far requests disturb it (docs/performance.md).
template <int M>
constexpr int64_t kAhead = M == 1 && sizeof(Element) == sizeof(float) ? 3072 : 9216;
constexpr int64_t kLine = 64 / sizeof(Element);  // elements of a cache line

FA_INLINE void prefetch(const Element *x, int64_t ahead) {
  __builtin_prefetch(reinterpret_cast<const char *>(x) + ahead, 0, 2);
}

// How many neighbours are multiplied and added by one operation (word.h), of a row of K and of the keys
// of V; with one, elements are widened to f32 on their way. With tiles they always are: `vdpbf16ps` is
// no faster than that on such processors. M rows, if few, wait for memory, and V is best read key by key.
#if defined(FA_DOT_BF16) && !defined(FA_TILES)
#define FA_DOT_IN_PLACE
constexpr int kTerms = kPair;
#else
constexpr int kTerms = 1;
#endif
template <int M>
constexpr int kKeyTerms = M > 2 ? kTerms : 1;

template <int T>
FA_INLINE Vec load_terms(const Element *x, int64_t n) {
  if constexpr (T > 1) return load_words(x, n);
  return n >= W ? load(x) : load_n(x, n);
}
template <int T>
FA_INLINE Vec splat_terms(float x) {
#if defined(FA_DOT_IN_PLACE)
  if constexpr (T > 1) return splat_word(x);
#endif
  return splat(x);
}
template <int T>
FA_INLINE Vec add_terms(Vec a, Vec b, Vec c) {
#if defined(FA_DOT_IN_PLACE)
  if constexpr (T > 1) return multiply_add(a, b, c);
#endif
  return fma(a, b, c);
}

// T·W columns of T keys' V, of which `n` exist, as words; `in_order` mends the order of what becomes
// of them. `second` may not exist (null: zeros).
FA_INLINE void load_columns(Vec (&x)[1], const Element *first, const Element *, int64_t n) {
  x[0] = load_terms<1>(first, n);
}
FA_INLINE void in_order(Vec (&)[1]) {}
#if defined(FA_DOT_IN_PLACE)
FA_INLINE void load_columns(Vec (&x)[2], const Element *first, const Element *second, int64_t n) {
  const auto a = __builtin_bit_cast(__m512i, load_words(first, n));
  const auto b = __builtin_bit_cast(__m512i, second ? load_words(second, n) : Vec{});
  x[0] = __builtin_bit_cast(Vec, _mm512_unpacklo_epi16(a, b));
  x[1] = __builtin_bit_cast(Vec, _mm512_unpackhi_epi16(a, b));
}
FA_INLINE void in_order(Vec (&x)[2]) {
  const Vec a = x[0], b = x[1];
  x[0] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  x[1] = __builtin_shufflevector(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
}
#endif

// One row of Q, zero up to a whole vector: scaled if it is f32.
FA_INLINE void load_row(const Problem &p, const Element *q, float *out) {
  for (int64_t c = 0; c < p.dk; c += kTerms * W, out += W) {
    const Vec x = load_terms<kTerms>(q + c, p.dk - c);
    store(out, kTerms > 1 ? x : x * splat(p.scale));
  }
}

// s[R][W / R] = scale * Q·Kᵀ, dot products along the head dim, of R rows of Q and W / R keys, whose sums
// across lanes are taken together. `k` has the keys, of which `keys` exist. kFetch: kAhead, or 0 for
// keys that have been asked for.
template <int R, int64_t kFetch>
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
      acc[r * kKeys + j] = add_terms<kTerms>(load(q + r * q_step + c / kTerms), y, acc[r * kKeys + j]);
  };
  const int64_t whole = p.dk / (kTerms * W) * (kTerms * W);
  // Key by key, so that memory is read in its order; two share the loads of several rows of Q.
  constexpr int kShare = R > 1 && kKeys > 1 ? 2 : 1;
#pragma unroll
  for (int j = 0; j < kKeys; j += kShare)
    for (int64_t c = 0; c < whole; c += kTerms * W)
#pragma unroll
      for (int i = j; i < j + kShare; ++i) {
        if (kFetch) prefetch(rows[i] + c, kFetch);
        product(i, c, load_terms<kTerms>(rows[i] + c, kTerms * W));
      }
  if (whole < p.dk)
#pragma unroll
    for (int j = 0; j < kKeys; ++j)
      product(j, whole, load_terms<kTerms>(rows[j] + whole, p.dk - whole));
  alignas(64) float sums[W];
  const Vec total = reduce_sums(acc);
  store(sums, kTerms > 1 ? total * splat(p.scale) : total);
#pragma unroll
  for (int r = 0; r < R; ++r) __builtin_memcpy(s + r * kKvTile, sums + r * kKeys, kKeys * 4);
}

// s[M][keys] = Q·Kᵀ, W keys at a time, R rows of Q at a time: the first rows fetch K.
template <int M, int R = 4, int64_t kFetch = kAhead<M>>
FA_INLINE void direct_scores(const Problem &p, const float *q, int64_t q_step, const Element *k,
                             int64_t keys, float *s) {
  if constexpr (M < R) {
    if constexpr (M > 0) direct_scores<M, R / 2, kFetch>(p, q, q_step, k, keys, s);
  } else {
    for (int64_t j = 0; j < W; j += W / R)
      direct_dots<R, kFetch>(p, q, q_step, k + smaller(j, keys - 1) * p.ks.row,
                                larger(keys - j, 1), s + j);
    direct_scores<M - R, R, 0>(p, q + R * q_step, q_step, k, keys, s + R * kKvTile);
  }
}

// C[M][N·W] = factor[M] * C + P[M][keys] · V[keys][N·W], V in place; `columns` <= N·W exist. `s` has
// a word for every T keys.
template <int T, int M, int N, bool kTail, int64_t kFetch>
FA_INLINE void direct_tile(const float *s, const Element *v, int64_t step, int64_t keys,
                           int64_t columns, int64_t fetched, float *c, int64_t c_step,
                           const float *factor) {
  Vec acc[M][N];
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) acc[i][j] = Vec{};
  for (int64_t key = 0; key < keys; key += T) {
    const Element *row = v + key * step, *next = key + 1 < keys ? row + step : nullptr;
    for (int t = 0; t < T; ++t)
      for (int64_t c = 0; c < fetched; c += kLine) prefetch(row + t * step + c, kFetch);
#pragma unroll
    for (int j = 0; j < N; j += T) {
      Vec x[T];
      load_columns(x, row + j * W, next ? next + j * W : nullptr, kTail ? columns - j * W : T * W);
#pragma unroll
      for (int i = 0; i < M; ++i)
#pragma unroll
        for (int t = 0; t < T; ++t)
          acc[i][j + t] = add_terms<T>(splat_terms<T>(s[i * kKvTile + key / T]), x[t], acc[i][j + t]);
    }
  }
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; j += T) {
      Vec sums[T];
#pragma unroll
      for (int t = 0; t < T; ++t) sums[t] = acc[i][j + t];
      in_order(sums);
#pragma unroll
      for (int t = 0; t < T; ++t) {
        if (kTail && (j + t) * W >= columns) break;
        float *at = c + i * c_step + (j + t) * W;
        store(at, fma(load(at), splat(factor[i]), sums[t]));
      }
    }
}

// Two rows at a time, which leaves registers for a whole row of V in most cases; four share what
// widening or pairing 16-bit elements costs.
template <int M>
FA_INLINE void direct_values(const Problem &p, const float *s, const Element *v, int64_t keys,
                             float *o, int64_t o_step, const float *factor) {
  constexpr int kRegisters = kRows * kVectors;
  constexpr bool kFour = sizeof(Element) < sizeof(float) && M >= 4 && 4 * 4 <= kRegisters;
  constexpr int R = kFour ? 4 : M < 2 ? M : 2;
  constexpr int N = R * 8 <= kRegisters ? 8 : 4;  // 4 fit everywhere
  // A few keys at a time, so that further passes over V find it in the cache.
  constexpr int64_t kKeys = 16, kFetch = kAhead<M>;
  constexpr int T = kKeyTerms<M>;
  float ones[W];
  store(ones, splat(1.0f));
  auto rows = [&](auto count, int64_t first, int64_t begin, int64_t n) {
    constexpr int C = count.value;
    const float *moved = begin ? ones : factor + first, *w = s + begin / T + first * kKvTile;
    float *out = o + first * o_step;
    int64_t c = 0, fetched = first ? 0 : p.dv;
    for (; c + N * W <= p.dv; c += N * W, fetched = 0)
      direct_tile<T, C, N, false, kFetch>(w, v + c, p.vs.row, n, N * W, fetched, out + c, o_step,
                                          moved);
    for (; c + 4 * W <= p.dv; c += 4 * W, fetched = 0)
      direct_tile<T, C, 4, false, kFetch>(w, v + c, p.vs.row, n, 4 * W, fetched, out + c, o_step,
                                          moved);
    for (; c < p.dv; c += T * W, fetched = 0)
      direct_tile<T, C, T, true, kFetch>(w, v + c, p.vs.row, n, p.dv - c, fetched, out + c, o_step,
                                         moved);
  };
  for (int64_t begin = 0; begin < keys; begin += kKeys) {
    const int64_t n = smaller(kKeys, keys - begin);
    for (int64_t first = 0; first + R <= M; first += R) rows(Constant<R>{}, first, begin, n);
    if constexpr (M % R) rows(Constant<M % R>{}, M / R * R, begin, n);
    v += n * p.vs.row;
  }
}

}  // namespace
