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

// Asks for the mask and bias of one row ahead of their use: their rows lie far apart, and what is
// read of each is too short for the hardware to foresee.
FA_INLINE void prefetch_masks(const Problem &p, RowMasks m, int64_t key, int64_t count) {
  if (m.bias && p.bias_s.row != 0 && !p.has(FA_FLAG_BIAS_KEY_BROADCAST)) {
    const int64_t size = p.has(FA_FLAG_BIAS_F32) ? 4 : int64_t(sizeof(Element));
    const char *x = static_cast<const char *>(m.bias);
    for (int64_t at = key * size; at < (key + count) * size; at += 64) __builtin_prefetch(x + at);
  }
  if (m.mask && p.mask_s.row != 0 && !p.has(FA_FLAG_MASK_KEY_BROADCAST))
    for (int64_t at = key; at < key + count; at += 64) __builtin_prefetch(m.mask + at);
}

FA_INLINE Vec bias_at(const Problem &p, const void *bias, int64_t key, int64_t n) {
  if (p.has(FA_FLAG_BIAS_KEY_BROADCAST)) key = 0, n = 1;
  Vec x = p.has(FA_FLAG_BIAS_F32) ? load_n(static_cast<const float *>(bias) + key, n)
                                  : load_n(static_cast<const Element *>(bias) + key, n);
  return p.has(FA_FLAG_BIAS_KEY_BROADCAST) ? splat(x[0]) : x;
}

// All-ones lanes for the elements that the mask excludes.
FA_INLINE Int masked_out(const Problem &p, const uint8_t *mask, int64_t key, int64_t n) {
  Int bytes = p.has(FA_FLAG_MASK_KEY_BROADCAST) ? splat_i(mask[0]) : load_bytes_n(mask + key, n);
  return p.has(FA_FLAG_MASK_DROP) ? Int(bytes != 0) : Int(bytes == 0);
}

#if defined(FA_TILES)
constexpr bool kScaleHere = true;  // tiles hold bare products
#else
constexpr bool kScaleHere = false;
#endif

// Scores s[0, count) of one row, whose first key is `key`; vectors are written whole. The template
// says what the problem has, so that the loop does not ask again for every vector. `scale` is what
// the matrix product has left to do here.
template <bool kCap, bool kBias, bool kMask, bool kBand>
inline __attribute__((noinline)) void adjust(const Problem &p, RowMasks m, int64_t row, int64_t key,
                                             int64_t count, float *s, float scale) {
  const bool after = p.has(FA_FLAG_BIAS_AFTER_FILL);
  const Vec c = splat(p.softcap), inverse = splat(1.0f / p.softcap), fill = splat(p.fill);
  // Band bounds relative to `key`, clamped so that they fit a lane.
  const int64_t lo = p.first_key(row) - key, hi = p.end_key(row) - key;
  const Int lo_lane = splat_i(int32_t(lo < 0 ? 0 : lo > count ? count : lo));
  const Int hi_lane = splat_i(int32_t(hi < 0 ? 0 : hi > count ? count : hi));
  Int lane = lane_index();
  for (int64_t i = 0; i < count; i += W) {
    int64_t n = count - i;
    Vec x = load(s + i), bias = {};
    if (kScaleHere) x *= splat(scale);
    if (kCap) x = c * tanh(x * inverse);
    if (kBias) bias = bias_at(p, m.bias, key + i, n);
    if (kBias && !after) x += bias;
    if (kMask) x = masked_out(p, m.mask, key + i, n) ? fill : x;
    if (kBand) x = ((lane < lo_lane) | (lane >= hi_lane)) ? fill : x;
    if (kBias && after) x += bias;
    store(s + i, x);
    lane += W;
  }
}

template <bool... kKnown>
FA_INLINE void adjust_row(const Problem &p, RowMasks m, int64_t row, int64_t key, int64_t count,
                          float *s, float scale = 1.0f) {
  if constexpr (sizeof...(kKnown) == 4) {
    adjust<kKnown...>(p, m, row, key, count, s, scale);
  } else {
    constexpr uint32_t flags[] = {FA_FLAG_SOFTCAP, FA_FLAG_BIAS, FA_FLAG_MASK,
                                  FA_FLAG_BAND_LO | FA_FLAG_BAND_HI};
    if (p.has(flags[sizeof...(kKnown)])) {
      adjust_row<kKnown..., true>(p, m, row, key, count, s, scale);
    } else {
      adjust_row<kKnown..., false>(p, m, row, key, count, s, scale);
    }
  }
}

}  // namespace
