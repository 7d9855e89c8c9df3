// Split-KV attention on mma.sync (roles "partial" and "combine"): flash-decoding.
//
// The query rows of a GQA group share their keys, so they are packed into one q tile: packed row r
// is query r / group of head kv_head*group + r % group. Every block takes one key range of one
// packed tile; a second dispatch merges the ranges.
#pragma once

#include "attend_mma.cuh"

namespace fa {

struct PackedRow {
  int query, head;
};

FA_DEVICE PackedRow unpack_row(int row, int group, int kv_head) {
  const int query = row / group;
  return {query, kv_head * group + row - query * group};
}

// The packed q tile, gathered row by row (a few rows: speed does not matter here).
template <class C>
FA_DEVICE void load_packed_q(const Words& w, const void* q, uint32_t q_tile, int first_row,
                             int group, int kv_head, int batch) {
  using E = typename C::E;
  constexpr int kChunks = C::kDk / kChunk<E>;
  for (int index = thread_index(); index < C::kQTile * kChunks; index += C::kThreads) {
    const int r = index / kChunks, chunk = index % kChunks;
    const PackedRow row = unpack_row(first_row + r, group, kv_head);
    Word4 value = {0, 0, 0, 0};
    if (row.query < w.q_len())
      value = gather_chunk(q_view<E>(w, q, batch, row.head), row.query, chunk * kChunk<E>);
    store_shared(q_tile + chunk_offset<C::kQTile>(r, chunk), value);
  }
}

// Merges the key warps of each row through shared memory and writes (O, max, sum) of the range.
template <class C>
FA_DEVICE void store_partial(const Words& w, const float (&o)[C::kDv / 2], RowState& state,
                             float scale, uint32_t shared, float* partial_o, float* partial_ml,
                             int64_t first_output, int first_row, int group, int kv_head) {
  const int thread = thread_index(), lane = thread % 32, warp = warp_uniform(thread / 32);
  const int warp_row = warp / C::kKeyWarps * 16, key_warp = warp % C::kKeyWarps;
  // Per row of the tile and key warp: max and sum; behind them, O as f32 rows.
  const uint32_t sums = shared, outputs = shared + C::kQTile * C::kKeyWarps * 8;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = warp_row + lane / 4 + 8 * r;
    const uint32_t at = sums + (row * C::kKeyWarps + key_warp) * 8;
    const float sum = quad_sum(state.sum[r]);
    if (lane % 4 == 0) {
      store_shared(at, state.max[r] == -kInf ? -kInf : multiply_rounded(state.max[r], scale));
      store_shared(at + 4, sum);
    }
#pragma unroll
    for (int i = 2 * r; i < C::kDv / 2; i += 4) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int column = i / 4 * 8 + 2 * (lane % 4) + j;
        store_shared(outputs + ((row * C::kKeyWarps + key_warp) * C::kDv + column) * 4, o[i + j]);
      }
    }
  }
  block_sync();
  for (int row = warp; row < C::kQTile; row += C::kThreads / 32) {
    const PackedRow place = unpack_row(first_row + row, group, kv_head);
    if (place.query >= w.q_len()) continue;
    float m = -kInf, sum = 0.0f, factor[C::kKeyWarps];
#pragma unroll
    for (int i = 0; i < C::kKeyWarps; ++i)
      m = maximum(m, load_shared_float(sums + (row * C::kKeyWarps + i) * 8));
#pragma unroll
    for (int i = 0; i < C::kKeyWarps; ++i) {
      const uint32_t at = sums + (row * C::kKeyWarps + i) * 8;
      factor[i] = exp2_fast(load_shared_float(at) - reference(m));
      sum += load_shared_float(at + 4) * factor[i];
    }
    const int64_t index = first_output + int64_t(place.head) * w.q_len() + place.query;
    for (int column = lane; column < w.dv(); column += 32) {
      float value = 0.0f;
#pragma unroll
      for (int i = 0; i < C::kKeyWarps; ++i)
        value += factor[i] * load_shared_float(
                                 outputs + ((row * C::kKeyWarps + i) * C::kDv + column) * 4);
      partial_o[index * w.dv() + column] = value;
    }
    if (lane == 0) {
      partial_ml[index * 2] = m;
      partial_ml[index * 2 + 1] = sum;
    }
  }
}

template <class C>
FA_DEVICE void partial_block(const Words& w, const void* q, const void* k, const void* v,
                             const void* mask, const void* bias, void* partial_o,
                             void* partial_ml) {
  using E = typename C::E;
  const int thread = thread_index(), lane = thread % 32, warp = warp_uniform(thread / 32);
  const int group = w.heads() / w.kv_heads(), packed_rows = w.q_len() * group;
  const int packed_blocks = (packed_rows + C::kQTile - 1) / C::kQTile;
  const int splits = w[FA_WORD_SPLITS];
  uint32_t rest = block_index();
  const int split = rest % splits;
  rest /= splits;
  const int packed_block = rest % packed_blocks;
  rest /= packed_blocks;
  const int kv_head = rest % w.kv_heads(), batch = rest / w.kv_heads();
  const int batches = block_count() / (splits * packed_blocks * w.kv_heads());

  const int first_row = packed_block * C::kQTile;
  const int end_row = first_row + C::kQTile < packed_rows ? first_row + C::kQTile : packed_rows;
  const Band band = band_of(w);
  const bool finite_fill = C::kGeneral && w.number(FA_WORD_FILL) != -kInf;
  const TileRange whole = tile_range<C::kKvTile>(band, first_row / group, (end_row - 1) / group,
                                                 w.kv_len(), finite_fill);
  const MmaBlock<E> block = {k_view<E>(w, k, batch, kv_head), v_view<E>(w, v, batch, kv_head),
                             split_range(whole, split, splits), band};
  const uint32_t shared = shared_base();
  load_packed_q<C>(w, q, shared, first_row, group, kv_head, batch);
  const int lane_row = first_row + warp / C::kKeyWarps * 16 + lane / 4;
  const PackedRow low = unpack_row(lane_row, group, kv_head);
  const PackedRow high = unpack_row(lane_row + 8, group, kv_head);
  const LaneRows rows[1] = {{{low.query, high.query}, {low.head, high.head}}};
  const GeneralScore<E> general = {w, static_cast<const uint8_t*>(mask), bias, batch};
  const ScoreScale scale = score_scale(w, C::kGeneral);
  WarpResult<C> result;
  result.clear();
  attend<C>(w, block, general, rows, scale, shared, result);
  const int64_t first_output = (int64_t(split) * batches + batch) * w.heads() * w.q_len();
  store_partial<C>(w, result.o[0], result.state[0], scale.softmax, shared,
                   static_cast<float*>(partial_o), static_cast<float*>(partial_ml), first_output,
                   first_row, group, kv_head);
}

constexpr int kCombineThreads = 128;

// Role "combine": one block a row of O.
template <class E>
FA_DEVICE void combine_block(const Words& w, const float* partial_o, const float* partial_ml,
                             const float* sinks, void* lse, void* out) {
  const int splits = w[FA_WORD_SPLITS], dv = w.dv();
  const int64_t row = block_index(), rows = block_count();
  const int query = row % w.q_len(), head = row / w.q_len() % w.heads();
  const int batch = row / w.q_len() / w.heads();
  float m = -kInf;
#pragma unroll 8
  for (int i = 0; i < splits; ++i) m = maximum(m, partial_ml[(i * rows + row) * 2]);
  const float base = reference(m);
  float sum = 0.0f;
#pragma unroll 8
  for (int i = 0; i < splits; ++i) {
    const float* ml = partial_ml + (i * rows + row) * 2;
    sum += ml[1] * exp2_fast(ml[0] - base);
  }
  float correction = 1.0f;
  if (thread_index() == 0) store_lse(w, lse, row, m, sum);
  if (w.flag(FA_FLAG_SINKS)) add_sink(m, sum, correction, sinks[head]);
  const bool nan = w.flag(FA_FLAG_EMPTY_ROW_NAN) && w.kv_len() > 0;
  const float factor = inverse_sum(sum, nan) * correction;
  const HeadView<E> view = o_view<E>(w, out, batch, head);
  for (int column = thread_index(); column < dv; column += kCombineThreads) {
    float value = 0.0f;
#pragma unroll 8
    for (int i = 0; i < splits; ++i) {
      const int64_t at = i * rows + row;
      value += partial_o[at * dv + column] * exp2_fast(partial_ml[at * 2] - base);
    }
    if constexpr (sizeof(E) == 2) {
      view.at(query, column)->bits = uint16_t(pack2<E>(value * factor, 0.0f));
    } else {
      view.at(query, column)->bits = float_to_bits(value * factor);
    }
  }
}

}  // namespace fa
