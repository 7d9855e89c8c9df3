// The 32-bit words that packed operands are made of: one f32, or with FA_DOT_BF16 two bf16 that are
// neighbours along the summed dimension, which `vdpbf16ps` multiplies and adds in one operation.
#pragma once
#include "problem.h"

namespace {

#if defined(FA_DOT_BF16)
constexpr int kPair = 2;

FA_INLINE float one_word(const Element *x, const Element *next) {
  return word_f32(x->bits | (next ? uint32_t(next->bits) << 16 : 0));
}
#if defined(__AVX512BF16__)
FA_INLINE Vec splat_word(float x) { return _mm512_set1_ps(x); }
FA_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
  return _mm512_dpbf16_ps(c, __builtin_bit_cast(__m512bh, a), __builtin_bit_cast(__m512bh, b));
}
// W words from n elements that lie side by side; zero beyond them.
FA_INLINE Vec load_words(const Element *x, int64_t n) {
  const uint32_t mask = n >= 2 * W ? ~0u : (1u << n) - 1;
  return __builtin_bit_cast(Vec, _mm512_maskz_loadu_epi16(mask, x));
}
// W words from n elements each of two rows; `second` may not exist (null: zeros).
FA_INLINE Vec load_rows(const Element *first, const Element *second, int64_t n) {
  auto widen = [&](const Element *x) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), x));
  };
  __m512i low = widen(first);
  if (second) low = _mm512_or_si512(low, _mm512_slli_epi32(widen(second), 16));
  return __builtin_bit_cast(Vec, low);
}
// The words of two vectors of f32, which follow each other.
FA_INLINE Vec narrow_words(Vec low, Vec high) {
  return __builtin_bit_cast(Vec, _mm512_cvtne2ps_pbh(high, low));
}
#else  // in the test double of the tiles
// W words from n elements that lie side by side; zero beyond them.
FA_INLINE Vec load_words(const Element *x, int64_t n) {
  Element all[2 * W] = {};
  for (int i = 0; i < 2 * W && i < n; ++i) all[i] = x[i];
  return load(reinterpret_cast<const float *>(all));
}
// W words from n elements each of two rows; `second` may not exist (null: zeros).
FA_INLINE Vec load_rows(const Element *first, const Element *second, int64_t n) {
  float all[W] = {};
  for (int i = 0; i < W && i < n; ++i) all[i] = one_word(first + i, second ? second + i : nullptr);
  return load(all);
}
// The words of two vectors of f32, which follow each other.
FA_INLINE Vec narrow_words(Vec low, Vec high) {
  Element all[2 * W];
  store(all, low);
  store(all + W, high);
  return load(reinterpret_cast<const float *>(all));
}
#endif
#else
constexpr int kPair = 1;

FA_INLINE Vec splat_word(float x) { return splat(x); }
FA_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
FA_INLINE Vec load_words(const Element *x, int64_t n) { return n >= W ? load(x) : load_n(x, n); }
FA_INLINE Vec load_rows(const Element *x, const Element *, int64_t n) { return load_words(x, n); }
FA_INLINE float one_word(const Element *x, const Element *) { return widen(*x); }
#endif

// Words that n elements along the summed dimension take.
FA_INLINE int64_t words(int64_t n) { return (n + kPair - 1) / kPair; }

}  // namespace
