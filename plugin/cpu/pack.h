// Packing: operands of any layout and type become panels of words (word.h).
#pragma once
#include "word.h"

namespace {

#if defined(FA_TILES) && defined(__AVX512BW__)
// One row of a panel from two whole rows of the source.
FA_INLINE void zip_rows(const Element *first, const Element *second, float *out) {
  alignas(64) static constexpr uint16_t low[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,
                                                   37, 6, 38, 7, 39, 8,  40, 9,  41, 10, 42,
                                                   11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
  const __m512i from = _mm512_load_si512(low), high = _mm512_add_epi16(from, _mm512_set1_epi16(16));
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, from, b));
  _mm512_storeu_si512(out + W, _mm512_permutex2var_epi16(a, high, b));
}
#endif

// panels[p][r][kPanel] = source(r, p * kPanel + lane), zero beyond `columns`; source rows, `rows` of
// them, are `step` apart and contiguous along the columns (V as stored; K when transposed).
FA_INLINE void pack_rows(const Element *source, int64_t step, int64_t rows, int64_t columns,
                         int64_t panel_rows, float *panels) {
  for (int64_t r = 0; r < rows; r += kPair) {
    const Element *x = source + r * step, *next = r + 1 < rows ? x + step : nullptr;
    float *out = panels + r / kPair * kPanel;
    for (int64_t c = 0; c < columns; c += kPanel) {
#if defined(FA_TILES) && defined(__AVX512BW__)
      if (columns - c >= kPanel && next) {
        zip_rows(x + c, next + c, out);
        out += panel_rows * kPanel;
        continue;
      }
#endif
#pragma unroll
      for (int j = 0; j < kPanel; j += W) {
        int64_t left = columns - c - j;
        Vec word = {};
        if (left > 0) word = load_rows(x + c + j, next ? next + c + j : next, left);
        store(out + j, word);
      }
      out += panel_rows * kPanel;
    }
  }
}

// Up to W columns of a panel from sources `step` apart, of which n elements are taken, words(n) rows
// of the panel. kWhole: all W, and of each as many elements as W words hold.
template <bool kWhole>
FA_INLINE void pack_block(const Element *x, int64_t step, int64_t lanes, int64_t n, float *out) {
  Vec block[W];
#pragma unroll
  for (int i = 0; i < W; ++i)
    block[i] = kWhole ? load_words(x + i * step, W * kPair)
                      : i < lanes ? load_words(x + i * step, n) : Vec{};
  transpose(block);
  if (kWhole) {
#pragma unroll
    for (int i = 0; i < W; ++i) store(out + i * kPanel, block[i]);
  } else {
    for (int i = 0; i < words(n); ++i) store(out + i * kPanel, block[i]);
  }
}

// The same panels from a source that is contiguous along r: its columns are `step` apart
// (K as stored; V when transposed). Vectors without any column are left as they are.
FA_INLINE void pack_columns(const Element *source, int64_t step, int64_t rows, int64_t columns,
                            int64_t panel_rows, float *panels) {
  constexpr int64_t kWhole = W * kPair;
  for (int64_t c = 0; c < columns; c += W) {
    const Element *x = source + c * step;
    float *out = panels + c / kPanel * kPanel * panel_rows + c % kPanel;
    const int64_t lanes = columns - c, whole = lanes >= W ? rows / kWhole * kWhole : 0;
    int64_t r = 0;
    for (; r < whole; r += kWhole) {
      // The next keys: a transposition reads too many rows at a time for the hardware to foresee.
      if (lanes >= 2 * W)
#pragma unroll
        for (int i = 0; i < W; ++i) __builtin_prefetch(x + r + (W + i) * step);
      pack_block<true>(x + r, step, W, kWhole, out + r / kPair * kPanel);
    }
    for (; r < rows; r += kWhole)
      pack_block<false>(x + r, step, lanes, smaller(rows - r, kWhole), out + r / kPair * kPanel);
  }
}

#if defined(FA_TILES)
constexpr int64_t kDepthStep = 32;  // elements along the summed dimension in a tile
#else
constexpr int64_t kDepthStep = kPair;
#endif
// Words in the panels along a summed dimension of n elements; those beyond `words(n)` are zero.
FA_INLINE int64_t depth_words(int64_t n) { return round_up(n, kDepthStep) / kPair; }

FA_INLINE void clear_rows(int64_t from, int64_t to, int64_t columns, int64_t panel_rows,
                          float *panels) {
  for (int64_t c = 0; from < to && c < columns; c += kPanel)
    for (int64_t i = from * kPanel; i < to * kPanel; i += W)
      store(panels + c * panel_rows + i, Vec{});
}

// Keys [begin, begin + keys) of one head, as [panel of keys][words of dk][kPanel].
inline __attribute__((noinline)) void pack_k(const Problem &p, const Element *k, int64_t begin,
                                             int64_t keys, float *panels) {
  const int64_t depth = depth_words(p.dk);
  if (p.has(FA_FLAG_K_TRANSPOSED)) {
    pack_rows(k + begin, p.ks.row, p.dk, keys, depth, panels);
  } else {
    pack_columns(k + begin * p.ks.row, p.ks.row, p.dk, keys, depth, panels);
  }
  clear_rows(words(p.dk), depth, keys, depth, panels);
}

// Values of the same keys, as [panel of dv][words of kv_rows][kPanel].
inline __attribute__((noinline)) void pack_v(const Problem &p, const Element *v, int64_t begin,
                                             int64_t keys, int64_t kv_rows, float *panels) {
  if (p.has(FA_FLAG_V_TRANSPOSED)) {
    pack_columns(v + begin, p.vs.row, keys, p.dv, words(kv_rows), panels);
  } else {
    pack_rows(v + begin * p.vs.row, p.vs.row, keys, p.dv, words(kv_rows), panels);
  }
  clear_rows(words(keys), depth_words(keys), p.dv, words(kv_rows), panels);
}

// Rounding a scaled bf16 again would lose bits: there the scores are scaled instead (gemm.h).
template <class T>
FA_INLINE T scaled_q(const Problem &p, T x) {
  if constexpr (kPair == 1) x = x * p.scale;
  return x;
}

#if !defined(FA_TILES)
// Words of a row of Q that lie side by side.
constexpr int64_t kQChunk = 64;

// Words that a row of Q takes.
FA_INLINE int64_t q_words(const Problem &p) { return round_up(words(p.dk), kQChunk); }

// The rows [first, first + count) of Q as [chunk of dk][row][kQChunk], scaled where a word is f32. Row
// i of a packed block is query i / group of head i % group: heads that share K and V stand side by
// side (FlashAttention-3's PackGQA). Vectors are stored whole.
inline __attribute__((noinline)) void pack_q(const Problem &p, const Element *q, int64_t first,
                                             int64_t count, float *out) {
  const int64_t depth = words(p.dk), chunk = count * kQChunk;
  const bool transposed = p.has(FA_FLAG_Q_TRANSPOSED);
  for (int64_t i = 0; i < count; ++i, out += kQChunk) {
    const int64_t query = p.group == 1 ? first + i : (first + i) / p.group;
    const Element *x = q + (first + i - query * p.group) * p.qs.head;
    if (transposed) {
      for (int64_t c = 0; c < depth; ++c) {
        const Element *at = x + query + c * kPair * p.qs.row;
        const bool paired = c * kPair + 1 < p.dk;
        out[c / kQChunk * chunk + c % kQChunk] =
            scaled_q(p, one_word(at, paired ? at + p.qs.row : nullptr));
      }
      continue;
    }
    x += query * p.qs.row;
    float *to = out;
    for (int64_t left = p.dk; left > 0; left -= kQChunk * kPair, to += chunk) {
      int64_t c = 0;
#pragma unroll 4
      for (; c < kQChunk && (c + W) * kPair <= left; c += W, x += W * kPair)
        store(to + c, scaled_q(p, load_words(x, W * kPair)));
      if (c < kQChunk && c * kPair < left) store(to + c, scaled_q(p, load_words(x, left - c * kPair)));
    }
  }
}
#endif

}  // namespace
