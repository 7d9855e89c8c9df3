// What happens to a score between Q·K and the softmax: softcap, bias, mask, band. Only blocks that
// need it come here; plain blocks go from the matrix product straight to the softmax.
#pragma once
#include "problem.h"

namespace {

// Where one row's mask and bias lie, already offset to (batch, head, query).
struct RowMasks {
  const uint8_t *mask;
  const void *bias;
};

FA_INLINE RowMasks row_masks(const Problem &p, int64_t batch, int64_t head, int64_t query) {
  RowMasks r = {};
  if (p.has(FA_FLAG_MASK))
    r.mask = p.mask + batch * p.mask_s.batch + head * p.mask_s.head + query * p.mask_s.row;
  if (p.has(FA_FLAG_BIAS)) {
    int64_t at = batch * p.bias_s.batch + head * p.bias_s.head + query * p.bias_s.row;
    r.bias = p.has(FA_FLAG_BIAS_F32) ? static_cast<const void *>(static_cast<const float *>(p.bias) + at)
                                     : static_cast<const void *>(static_cast<const Element *>(p.bias) + at);
  }
  return r;
}

template <class T>
FA_INLINE Vec bias_at(const void *bias, bool broadcast, int64_t key, int64_t n) {
  const T *b = static_cast<const T *>(bias);
  return broadcast ? splat(widen(b[0])) : load_n(b + key, n);
}

// All-ones lanes for the elements that the mask excludes.
FA_INLINE Int masked_out(const Problem &p, const uint8_t *mask, int64_t key, int64_t n) {
  Int bytes = {};
  if (p.has(FA_FLAG_MASK_KEY_BROADCAST)) {
    bytes = splat_i(mask[0]);
  } else if (n >= W) {
    bytes = __builtin_convertvector(*reinterpret_cast<const BytesU *>(mask + key), Int);
  } else {
    for (int j = 0; j < W; ++j)
      if (j < n) bytes[j] = mask[key + j];
  }
  return p.has(FA_FLAG_MASK_DROP) ? Int(bytes != 0) : Int(bytes == 0);
}

// Scores s[0, count) of one row, whose first key is `key`; vectors are written whole.
inline __attribute__((noinline)) void adjust_row(const Problem &p, RowMasks m, int64_t row,
                                                 int64_t key, int64_t count, float *s) {
  const bool key_broadcast = p.has(FA_FLAG_BIAS_KEY_BROADCAST);
  const bool after = p.has(FA_FLAG_BIAS_AFTER_FILL), cap = p.has(FA_FLAG_SOFTCAP);
  const bool banded = p.banded();
  const Vec c = splat(p.softcap), inverse = splat(1.0f / p.softcap);
  // Band bounds relative to `key`, clamped so that they fit a lane.
  const int64_t lo = p.first_key(row) - key, hi = p.end_key(row) - key;
  const Int lo_lane = splat_i(int32_t(lo < 0 ? 0 : lo > count ? count : lo));
  const Int hi_lane = splat_i(int32_t(hi < 0 ? 0 : hi > count ? count : hi));
  Int lane = lane_index();
  for (int64_t i = 0; i < count; i += W) {
    int64_t n = count - i < W ? count - i : W;
    Vec x = load(s + i);
    if (cap) x = c * tanh(x * inverse);
    Vec bias = {};
    if (m.bias)
      bias = p.has(FA_FLAG_BIAS_F32) ? bias_at<float>(m.bias, key_broadcast, key + i, n)
                                     : bias_at<Element>(m.bias, key_broadcast, key + i, n);
    if (m.bias && !after) x += bias;
    if (m.mask) x = masked_out(p, m.mask, key + i, n) ? splat(p.fill) : x;
    if (banded) x = ((lane < lo_lane) | (lane >= hi_lane)) ? splat(p.fill) : x;
    if (m.bias && after) x += bias;
    store(s + i, x);
    lane += W;
  }
}

}  // namespace
