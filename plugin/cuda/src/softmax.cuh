// Online softmax of one lane's two rows of a score tile, in log2 units.
//
// Accumulator fragments (of mma and of wgmma alike) hold, at index 4*t + e of column group t (8
// columns), row lane/4 + 8*(e/2) and column 8*t + 2*(lane%4) + e%2: four lanes share a row.
// Row sums stay per lane until the end (FlashAttention-2, section 3.1; the log2 domain and the
// deferred sums as in FlashAttention-3, section 3).
#pragma once

#include "arguments.cuh"

namespace fa {

struct RowState {
  float max[2];  // of the scores before `scale`
  float sum[2];  // this lane's part of the sum of 2^(scale*score - scale*max)
};

FA_DEVICE RowState empty_rows() { return {{-kInf, -kInf}, {0.0f, 0.0f}}; }

// Max over the four lanes of a row.
FA_DEVICE float quad_max(float x) {
  x = maximum(x, shuffle_xor(x, 1));
  return maximum(x, shuffle_xor(x, 2));
}
FA_DEVICE float quad_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

// A row that has seen only -inf keeps 0 as its reference, so that -inf - (-inf) never happens.
FA_DEVICE float reference(float scaled_max) { return scaled_max == -kInf ? 0.0f : scaled_max; }

// Turns scores into probabilities relative to the running maximum; `scale` (positive) takes a
// score to log2 units. Gives, for both rows, the factor that earlier sums and outputs take.
template <int kCount>
FA_DEVICE void online_softmax(float (&s)[kCount], RowState& state, float scale,
                              float (&correction)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float m = state.max[r];
#pragma unroll
    for (int i = 2 * r; i < kCount; i += 4) m = maximum(m, maximum(s[i], s[i + 1]));
    m = quad_max(m);
    // Both references are rounded alike, so an unchanged maximum corrects by exactly 1; a fused
    // product here would bend the weights of early tiles a little with every tile.
    const float base = reference(multiply_rounded(m, scale));
    correction[r] = exp2_fast(multiply_rounded(state.max[r], scale) - base);
    state.max[r] = m;
    float sum = state.sum[r] * correction[r];
#pragma unroll
    for (int i = 2 * r; i < kCount; i += 4) {
      s[i] = exp2_fast(fused_multiply_add(s[i], scale, -base));
      s[i + 1] = exp2_fast(fused_multiply_add(s[i + 1], scale, -base));
      sum += s[i] + s[i + 1];
    }
    state.sum[r] = sum;
  }
}

template <int kCount>
FA_DEVICE void scale_rows(float (&o)[kCount], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) o[i] *= factor[(i >> 1) & 1];
}

// Probabilities as the A operand of P V: registers 4k..4k+3 serve keys 16k..16k+15.
template <class E, int kCount>
FA_DEVICE void round_probabilities(const float (&s)[kCount], uint32_t (&p)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) p[i] = pack2<E>(s[2 * i], s[2 * i + 1]);
}

}  // namespace fa
