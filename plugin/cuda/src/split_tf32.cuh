// The two products of one warp in f32, on tf32 products.
//
// Each operand is the sum of two tf32 values; of the four products the smallest is left out
// (3xTF32). Tensor cores truncate when they add, so long sums are cut: a few steps add up in a fresh
// accumulator, which an ordinary addition, rounded to nearest, takes over.
#pragma once

#include "tile.cuh"

namespace fa {

// Rounding by integer arithmetic: the conversion instruction becomes six. What the tensor cores cut
// off the lower part is 2^-22 of the value; an overflow or NaN leaves NaN in the lower part.
struct SplitValue {
  uint32_t high, low;
};

FA_DEVICE SplitValue split_value(float x) {
  const uint32_t high = (float_to_bits(x) + 0x1000u) & 0xffffe000u;
  return {high, float_to_bits(x - bits_to_float(high))};
}

// One operand of several products, as the instruction wants it.
struct SplitA {
  uint32_t high[4], low[4];
};
struct SplitB {
  SplitValue low_half, high_half;  // of the 8 values along the sum
};

FA_DEVICE SplitA split_a(const float (&x)[4]) {
  SplitA a;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const SplitValue value = split_value(x[i]);
    a.high[i] = value.high;
    a.low[i] = value.low;
  }
  return a;
}

// d[j] (16 x 8) += A (16 x 8) B[j] (8 x 8). Products that follow each other go to different
// accumulators: each has to wait for the one before it on its own.
template <int kCount>
FA_DEVICE void multiply_split(float (&d)[kCount][4], const SplitA& a, const SplitB (&b)[kCount]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j)
    multiply_accumulate_tf32(d[j], a.low, b[j].low_half.high, b[j].high_half.high);
#pragma unroll
  for (int j = 0; j < kCount; ++j)
    multiply_accumulate_tf32(d[j], a.high, b[j].low_half.low, b[j].high_half.low);
#pragma unroll
  for (int j = 0; j < kCount; ++j)
    multiply_accumulate_tf32(d[j], a.high, b[j].low_half.high, b[j].high_half.high);
}

// S (16 x kKeys) = Q K^T over kDk dims; tiles of kQTile and kKvTile rows.
template <int kQTile, int kKvTile, int kKeys, int kDk>
FA_DEVICE void multiply_q_k_split(float (&s)[kKeys / 2], uint32_t q_tile, uint32_t k_tile,
                                  int q_row, int first_key, int lane) {
  constexpr int kSteps = 4;                      // of 8 dims, before the sum is taken over
  constexpr int kAtOnce = kKeys < 32 ? kKeys / 8 : 4;  // accumulators, of 8 keys
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) s[i] = 0.0f;
#pragma unroll
  for (int first = 0; first < kDk / 8; first += kSteps) {
    SplitA a[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      uint32_t bits[4];
      load_matrices(bits, q_tile + chunk_offset<kQTile>(q_row + lane % 16,
                                                        2 * (first + i) + lane / 16));
      const float values[4] = {bits_to_float(bits[0]), bits_to_float(bits[1]),
                               bits_to_float(bits[2]), bits_to_float(bits[3])};
      a[i] = split_a(values);
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += kAtOnce) {
      float sum[kAtOnce][4] = {};
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        SplitB b[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; j += 2) {
          uint32_t bits[4];
          const int key = first_key + 8 * (n + j) + lane / 16 * 8 + lane % 8;
          load_matrices(bits, k_tile + chunk_offset<kKvTile>(key, 2 * (first + i) + lane / 8 % 2));
#pragma unroll
          for (int half = 0; half < 2; ++half)
            b[j + half] = {split_value(bits_to_float(bits[2 * half])),
                           split_value(bits_to_float(bits[2 * half + 1]))};
        }
        multiply_split(sum, a[i], b);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[4 * (n + j) + i] += sum[j][i];
      }
    }
  }
}

// O (16 x kDv) += P V. The order of keys inside a step is free as long as P and V agree: with keys
// 2c and 2c + 1 in the places c and c + 4, P is where the first product left it.
template <int kKvTile, int kKeys, int kDv>
FA_DEVICE void multiply_p_v_split(float (&o)[kDv / 2], const float (&s)[kKeys / 2],
                                  uint32_t v_tile, int first_key, int lane) {
  constexpr int kAtOnce = 4;  // accumulators, of 8 columns: together a panel of the tile
  SplitA p[kKeys / 8];
#pragma unroll
  for (int step = 0; step < kKeys / 8; ++step) {
    const float values[4] = {s[4 * step], s[4 * step + 2], s[4 * step + 1], s[4 * step + 3]};
    p[step] = split_a(values);
  }
  uint32_t first[kAtOnce][2];  // where the lane's two keys of the first step lie
#pragma unroll
  for (int j = 0; j < kAtOnce; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e)
      first[j][e] = v_tile + lane / 4 % 4 * 4 +
                    chunk_offset<kKvTile>(first_key + lane % 4 * 2 + e, 2 * j + lane / 16);
  }
#pragma unroll
  for (int n = 0; n < kDv / 8; n += kAtOnce) {
    float sum[kAtOnce][4] = {};
#pragma unroll
    for (int step = 0; step < kKeys / 8; ++step) {
      const uint32_t from = n / kAtOnce * kKvTile * kPanelRowBytes + 8 * step * kPanelRowBytes;
      SplitB b[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        b[j] = {split_value(load_shared_float(first[j][0] + from)),
                split_value(load_shared_float(first[j][1] + from))};
      multiply_split(sum, p[step], b);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[4 * (n + j) + i] += sum[j][i];
    }
  }
}

}  // namespace fa
