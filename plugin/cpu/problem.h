// One attention problem as a kernel sees it: the constants of the dispatch ABI, decoded.
#pragma once
#include "shuffle.h"

#include "flashattn_abi.h"

namespace {

// The type of Q, K, V and O; the build defines FA_ELEMENT_f32, _f16 or _bf16.
#if defined(FA_ELEMENT_f16)
using Element = f16;
#elif defined(FA_ELEMENT_bf16)
using Element = bf16;
#else
using Element = float;
#endif

constexpr float kInf = __builtin_inff();
constexpr float kLog2E = 1.44269504088896340736f;

inline float word_f32(uint32_t bits) { return __builtin_bit_cast(float, bits); }

FA_INLINE int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
FA_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FA_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Strides in elements, 64 bits wide so that their products cannot wrap.
struct Strides {
  int64_t batch, head, row;
};

struct Problem {
  const Element *q, *k, *v;
  const uint8_t *mask;
  const void *bias;
  const float *sinks;
  uint32_t flags;
  int64_t q_len, kv_len, heads, kv_heads, group, dk, dv, splits;
  float scale, softcap, fill;
  int64_t band_lo, band_hi;  // key - row must lie in [band_lo, band_hi]
  Strides qs, ks, vs, os, mask_s, bias_s;

  bool has(uint32_t flag) const { return (flags & flag) != 0; }
  bool banded() const { return has(FA_FLAG_BAND_LO | FA_FLAG_BAND_HI); }
  // Scores are plain scale * q·k but for the band: the body that only ever compares indices.
  bool plain_scores() const { return !has(FA_FLAG_MASK | FA_FLAG_BIAS | FA_FLAG_SOFTCAP); }
  // All that happens to them is that one f32 is added to each: part of the matrix product's end.
  bool only_adds_f32() const {
    constexpr uint32_t others = FA_FLAG_MASK | FA_FLAG_SOFTCAP | FA_FLAG_BIAS_KEY_BROADCAST;
    const bool f32 = sizeof(Element) == sizeof(float) || has(FA_FLAG_BIAS_F32);
    return has(FA_FLAG_BIAS) && f32 && !has(others) && !banded();
  }

  // First and last-plus-one key that a row may see.
  int64_t first_key(int64_t row) const {
    return has(FA_FLAG_BAND_LO) ? clamp(row + band_lo) : 0;
  }
  int64_t end_key(int64_t row) const {
    return has(FA_FLAG_BAND_HI) ? clamp(row + band_hi + 1) : kv_len;
  }
  int64_t clamp(int64_t key) const { return key < 0 ? 0 : key > kv_len ? kv_len : key; }
};

inline Problem decode(const void *q, const void *k, const void *v, const void *mask,
                      const void *bias, const float *sinks, const uint32_t *w) {
  Problem p;
  p.q = static_cast<const Element *>(q) + w[FA_WORD_Q_OFFSET];
  p.k = static_cast<const Element *>(k) + w[FA_WORD_K_OFFSET];
  p.v = static_cast<const Element *>(v) + w[FA_WORD_V_OFFSET];
  p.mask = static_cast<const uint8_t *>(mask);
  p.bias = bias;
  p.sinks = sinks;
  p.flags = w[FA_WORD_FLAGS];
  p.q_len = w[FA_WORD_Q_LEN];
  p.kv_len = w[FA_WORD_KV_LEN];
  p.heads = w[FA_WORD_HEADS] & 0xffff;
  p.kv_heads = w[FA_WORD_HEADS] >> 16;
  p.group = p.kv_heads ? p.heads / p.kv_heads : 0;
  p.dk = w[FA_WORD_HEAD_DIMS] & 0xffff;
  p.dv = w[FA_WORD_HEAD_DIMS] >> 16;
  p.splits = w[FA_WORD_SPLITS] ? w[FA_WORD_SPLITS] : 1;
  p.scale = word_f32(w[FA_WORD_SCALE]);
  p.softcap = word_f32(w[FA_WORD_SOFTCAP]);
  p.fill = word_f32(w[FA_WORD_FILL]);
  p.band_lo = static_cast<int32_t>(w[FA_WORD_BAND_LO]);
  p.band_hi = static_cast<int32_t>(w[FA_WORD_BAND_HI]);
  p.qs = {w[FA_WORD_Q_STRIDE_B], w[FA_WORD_Q_STRIDE_H], w[FA_WORD_Q_STRIDE_X]};
  p.ks = {w[FA_WORD_K_STRIDE_B], w[FA_WORD_K_STRIDE_H], w[FA_WORD_K_STRIDE_X]};
  p.vs = {w[FA_WORD_V_STRIDE_B], w[FA_WORD_V_STRIDE_H], w[FA_WORD_V_STRIDE_X]};
  p.os = {w[FA_WORD_O_STRIDE_B], w[FA_WORD_O_STRIDE_H], w[FA_WORD_O_STRIDE_X]};
  p.mask_s = {w[FA_WORD_MASK_STRIDE_B], w[FA_WORD_MASK_STRIDE_H], w[FA_WORD_MASK_STRIDE_X]};
  p.bias_s = {w[FA_WORD_BIAS_STRIDE_B], w[FA_WORD_BIAS_STRIDE_H], w[FA_WORD_BIAS_STRIDE_X]};
  return p;
}

}  // namespace
