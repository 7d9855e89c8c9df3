// The two products of one warp in f32, on tf32 products.
//
// Each operand is the sum of two tf32 values; of the four products the smallest is left out
// (3xTF32). Tensor cores truncate when they add, so long sums are cut: a few steps add up in a fresh
// accumulator, which an ordinary addition, rounded to nearest, takes over.
#pragma once

#include "tile.cuh"

namespace fa {

struct SplitValue {
  uint32_t high, low;
};

FA_DEVICE SplitValue split_value(float x) {
  const uint32_t high = round_tf32(x);
  return {high, round_tf32(x - bits_to_float(high))};
}

// d (16 x 8) += A (16 x 8) B (8 x 8).
FA_DEVICE void multiply_split(float* d, const SplitValue (&a)[4], SplitValue b0, SplitValue b1) {
  const uint32_t high[4] = {a[0].high, a[1].high, a[2].high, a[3].high};
  const uint32_t low[4] = {a[0].low, a[1].low, a[2].low, a[3].low};
  multiply_accumulate_tf32(d, low, b0.high, b1.high);
  multiply_accumulate_tf32(d, high, b0.low, b1.low);
  multiply_accumulate_tf32(d, high, b0.high, b1.high);
}

// S (16 x kKeys) = Q K^T over kDk dims; tiles of kQTile and kKvTile rows.
template <int kQTile, int kKvTile, int kKeys, int kDk>
FA_DEVICE void multiply_q_k_split(float (&s)[kKeys / 2], uint32_t q_tile, uint32_t k_tile,
                                  int q_row, int first_key, int lane) {
  constexpr int kSteps = 4;  // of 8 dims, before the sum is taken over
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) s[i] = 0.0f;
#pragma unroll
  for (int first = 0; first < kDk / 8; first += kSteps) {
    SplitValue a[kSteps][4];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      uint32_t bits[4];
      load_matrices(bits, q_tile + chunk_offset<kQTile>(q_row + lane % 16,
                                                        2 * (first + i) + lane / 16));
#pragma unroll
      for (int j = 0; j < 4; ++j) a[i][j] = split_value(bits_to_float(bits[j]));
    }
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      float sum[8] = {};
      const int key = first_key + 16 * n + lane / 16 * 8 + lane % 8;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        uint32_t bits[4];
        load_matrices(bits, k_tile + chunk_offset<kKvTile>(key, 2 * (first + i) + lane / 8 % 2));
        SplitValue b[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) b[j] = split_value(bits_to_float(bits[j]));
        multiply_split(sum, a[i], b[0], b[1]);
        multiply_split(sum + 4, a[i], b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) s[8 * n + i] += sum[i];
    }
  }
}

// O (16 x kDv) += P V. The order of keys inside a step is free as long as P and V agree: with keys
// 2c and 2c + 1 in the places c and c + 4, P is where the first product left it.
template <int kKvTile, int kKeys, int kDv>
FA_DEVICE void multiply_p_v_split(float (&o)[kDv / 2], const float (&s)[kKeys / 2],
                                  uint32_t v_tile, int first_key, int lane) {
  SplitValue p[kKeys / 8][4];
#pragma unroll
  for (int step = 0; step < kKeys / 8; ++step) {
    p[step][0] = split_value(s[4 * step]);
    p[step][1] = split_value(s[4 * step + 2]);
    p[step][2] = split_value(s[4 * step + 1]);
    p[step][3] = split_value(s[4 * step + 3]);
  }
#pragma unroll
  for (int n = 0; n < kDv / 8; ++n) {
    const int chunk = 2 * n + lane / 16, inside = lane / 4 % 4 * 4;
    float sum[4] = {};
#pragma unroll
    for (int step = 0; step < kKeys / 8; ++step) {
      const int key = first_key + 8 * step + lane % 4 * 2;
      const float b0 = load_shared_float(v_tile + chunk_offset<kKvTile>(key, chunk) + inside);
      const float b1 = load_shared_float(v_tile + chunk_offset<kKvTile>(key + 1, chunk) + inside);
      multiply_split(sum, p[step], split_value(b0), split_value(b1));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) o[4 * n + i] += sum[i];
  }
}

}  // namespace fa
