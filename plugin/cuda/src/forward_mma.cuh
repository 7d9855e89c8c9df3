// Attention on mma.sync: one block computes the rows of one q tile.
#pragma once

#include "weights_mma.cuh"

namespace fa {

// Role "forward": a q tile of one head, written to O, and P where the row has it.
template <class C>
FA_DEVICE void forward_block(const Words& w, const void* q, const void* k, const void* v,
                             const void* mask, const void* bias, const void* sinks, void* lse,
                             void* out, void* weights = nullptr) {
  using E = typename C::E;
  const int thread = thread_index(), lane = thread % 32, warp = warp_uniform(thread / 32);
  const int q_blocks = (w.q_len() + C::kQTile - 1) / C::kQTile;
  const BlockPlace place = place_block(w, block_index(), q_blocks);
  const int kv_head = place.head / (w.heads() / w.kv_heads());
  const int first_row = place.q_block * C::kQTile;
  const int last_row = (first_row + C::kQTile < w.q_len() ? first_row + C::kQTile : w.q_len()) - 1;
  const Band band = band_of(w);
  const bool finite_fill = C::kGeneral && w.number(FA_WORD_FILL) != -kInf;
  const MmaBlock<E> block = {
      k_view<E>(w, k, place.batch, kv_head), v_view<E>(w, v, place.batch, kv_head),
      tile_range<C::kKvTile>(band, first_row, last_row, w.kv_len(), finite_fill), band};
  const uint32_t q_tile = shared_base();
  load_tile<C::kQTile, C::kDk, C::kThreads>(q_tile, q_view<E>(w, q, place.batch, place.head),
                                            first_row, w.q_len(), thread);
  const int warp_row = warp * C::kWarpRows;
  LaneRows rows[C::kRowTiles];
#pragma unroll
  for (int m = 0; m < C::kRowTiles; ++m) {
    const int row = first_row + warp_row + 16 * m + lane / 4;
    rows[m] = {{row, row + 8}, {place.head, place.head}};
  }
  const GeneralScore<E> general = {w, static_cast<const uint8_t*>(mask), bias, place.batch};
  const ScoreScale scale = score_scale(w, C::kGeneral);
  WarpResult<C> result;
  result.clear();
  attend<C>(w, block, general, rows, scale, q_tile, result);

  const HeadView<E> view = o_view<E>(w, out, place.batch, place.head);
  // O passes through the place of Q, or that of K and V where Q is needed once more.
  const uint32_t stage = C::kWeights ? q_tile + C::kQBytes : q_tile;
#pragma unroll
  for (int m = 0; m < C::kRowTiles; ++m) {
    const int tile_row = warp_row + 16 * m;
    float factor[2];
    finish_rows(w, static_cast<const float*>(sinks), lse, place.batch, lane, rows[m],
                scale.softmax, result.state[m], factor);
    store_rows<E, C::kQTile, C::kDv>(result.o[m], factor, stage, tile_row, view.columns,
                                     view.column_stride, view.vector, lane, [&](int r) -> E* {
                                       const int at = first_row + tile_row + r;
                                       return at < w.q_len() ? view.at(at, 0) : nullptr;
                                     });
    if constexpr (C::kWeights) {
      block_sync();
      write_weights<C>(w, block, general, rows[m], q_tile, result.state[m].max, factor,
                       weight_rows<E>(w, weights, place.batch, rows[m]));
    }
  }
}

}  // namespace fa
