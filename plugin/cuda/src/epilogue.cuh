// From accumulators to O: normalise, gather rows in shared memory, store them whole.
#pragma once

#include "score.cuh"
#include "tile.cuh"

namespace fa {

// 1 / sum for a finished row; a row that attends to nothing gives 0, or NaN where the site asks.
FA_DEVICE float inverse_sum(float sum, bool empty_row_nan) {
  if (sum > 0.0f) return 1.0f / sum;
  return empty_row_nan ? bits_to_float(0x7fc00000u) : 0.0f;
}

// The LSE of one row, if the site wants it, from its maximum in log2 units and its sum without sink.
FA_DEVICE void store_lse(const Words& w, void* lse, int64_t row, float max, float sum) {
  if (!w.flag(FA_FLAG_LSE)) return;
  float value = (max + log2_accurate(sum)) * (1.0f / kLog2e);
  if (sum == 0.0f)
    value = w.flag(FA_FLAG_LSE_NAN) && w.kv_len() > 0 ? bits_to_float(0x7fc00000u) : -kInf;
  static_cast<float*>(lse)[row] = value;
}

// Row sums completed over their lanes, with the sinks; the result multiplies O. Writes the LSE.
FA_DEVICE void finish_rows(const Words& w, const float* sinks, void* lse, int batch, int lane,
                           const LaneRows& rows, float scale, RowState& state,
                           float (&factor)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = quad_sum(state.sum[r]);
    float correction = 1.0f;
    if (rows.query[r] < w.q_len()) {
      float m = state.max[r] == -kInf ? -kInf : multiply_rounded(state.max[r], scale);
      const int64_t head = int64_t(batch) * w.heads() + rows.head[r];
      if (lane % 4 == 0) store_lse(w, lse, head * w.q_len() + rows.query[r], m, sum);
      if (w.flag(FA_FLAG_SINKS)) add_sink(m, sum, correction, sinks[rows.head[r]]);
    }
    const bool nan = w.flag(FA_FLAG_EMPTY_ROW_NAN) && w.kv_len() > 0;
    factor[r] = inverse_sum(sum, nan) * correction;
    // An empty row has O = 0, and 0 * NaN is the NaN that is asked for.
  }
}

// One warp's 16 rows of normalised O, through its 16 rows of the shared tile `stage` (kRows rows,
// this warp's from `first_stage_row`). `row_of(r)` gives the destination of row r, or null.
template <class E, int kRows, int kColumns, class RowOf>
FA_DEVICE void store_rows(const float* o, const float (&factor)[2], uint32_t stage,
                          int first_stage_row, int columns, int64_t column_stride,
                          bool vector, int lane, RowOf row_of) {
  const int pair = lane % 4, row = lane / 4;
#pragma unroll
  for (int t = 0; t < kColumns / 8; ++t) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float low = o[4 * t + 2 * r] * factor[r], high = o[4 * t + 2 * r + 1] * factor[r];
      const int at = first_stage_row + row + 8 * r;
      if constexpr (sizeof(E) == 2) {
        store_shared(stage + chunk_offset<kRows>(at, t) + pair * 4, pack2<E>(low, high));
      } else {
        const uint32_t to = stage + chunk_offset<kRows>(at, 2 * t + pair / 2) + pair % 2 * 8;
        store_shared(to, low);
        store_shared(to + 4, high);
      }
    }
  }
  warp_sync();
  constexpr int kChunks = kColumns / kChunk<E>, kPerWord = 4 / int(sizeof(E));
#pragma unroll 4
  for (int index = lane; index < 16 * kChunks; index += 32) {
    const int r = index / kChunks, chunk = index % kChunks, column = chunk * kChunk<E>;
    E* destination = row_of(r);
    if (destination == nullptr || column >= columns) continue;
    const Word4 value = load_shared(stage + chunk_offset<kRows>(first_stage_row + r, chunk));
    if (vector) {
      *reinterpret_cast<Word4*>(destination + column) = value;
    } else {
      const uint32_t words[4] = {value.x, value.y, value.z, value.w};
#pragma unroll
      for (int i = 0; i < kChunk<E>; ++i) {
        if (column + i >= columns) continue;
        destination[(column + i) * column_stride].bits =
            decltype(destination->bits)(words[i / kPerWord] >> 16 * (i % kPerWord));
      }
    }
  }
}

}  // namespace fa
