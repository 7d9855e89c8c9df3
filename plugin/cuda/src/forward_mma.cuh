// Attention on mma.sync, for every GPU from sm_80 on: one block computes the rows of one q tile.
//
// K and V tiles stream through a ring of `kStages` slots by asynchronous copies; probabilities stay
// in registers between the two products (FlashAttention-2, section 3). `kRowWarps` warps share the
// rows and `kKeyWarps` the keys of a tile: prefill splits rows, decode (few rows) splits keys and
// merges the warps' results at the end.
#pragma once

#include "epilogue.cuh"

namespace fa {

template <class Element, int kDk_, int kDv_, int kRowWarps_, int kKeyWarps_, int kKvTile_,
          int kStages_, bool kGeneral_>
struct MmaConfig {
  using E = Element;
  static constexpr int kDk = kDk_, kDv = kDv_;  // head dims served, multiples of 64
  static constexpr int kRowWarps = kRowWarps_, kKeyWarps = kKeyWarps_;
  static constexpr int kThreads = 32 * kRowWarps * kKeyWarps;
  static constexpr int kQTile = 16 * kRowWarps, kKvTile = kKvTile_;
  static constexpr int kWarpKeys = kKvTile / kKeyWarps;  // keys of a tile that one warp takes
  static constexpr int kStages = kStages_;
  static constexpr bool kGeneral = kGeneral_;  // masks, bias, softcap, finite fill
  static constexpr uint32_t kQBytes = tile_bytes<E>(kQTile, kDk > kDv ? kDk : kDv);
  static constexpr uint32_t kKBytes = tile_bytes<E>(kKvTile, kDk);
  static constexpr uint32_t kStageBytes = kKBytes + tile_bytes<E>(kKvTile, kDv);
  static constexpr uint32_t kSharedBytes = 1024 + kQBytes + kStages * kStageBytes;
  static_assert(kWarpKeys % 16 == 0 && kDk % 64 == 0 && kDv % 64 == 0, "whole fragments");
};

// d += A B for one 16-byte-wide step of A (16 rows) and B (8 columns). f32 operands are split into
// two tf32 parts each; the product of the small parts is left out (3xTF32, error about 2^-21).
template <class E>
FA_DEVICE void multiply_step(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (sizeof(E) == 2) {
    multiply_accumulate<E>(d, a, b0, b1);
  } else {
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      high[i] = round_tf32(bits_to_float(a[i]));
      low[i] = round_tf32(bits_to_float(a[i]) - bits_to_float(high[i]));
    }
    const uint32_t high0 = round_tf32(bits_to_float(b0)), high1 = round_tf32(bits_to_float(b1));
    const uint32_t low0 = round_tf32(bits_to_float(b0) - bits_to_float(high0));
    const uint32_t low1 = round_tf32(bits_to_float(b1) - bits_to_float(high1));
    multiply_accumulate_tf32(d, low, high0, high1);
    multiply_accumulate_tf32(d, high, low0, low1);
    multiply_accumulate_tf32(d, high, high0, high1);
  }
}

// S (16 x kWarpKeys) = Q K^T for one warp. A step is 32 bytes of the head dim.
template <class C>
FA_DEVICE void multiply_q_k(float (&s)[C::kWarpKeys / 2], uint32_t q_tile, uint32_t k_tile,
                            int q_row, int first_key, int lane) {
  using E = typename C::E;
#pragma unroll
  for (int i = 0; i < C::kWarpKeys / 2; ++i) s[i] = 0.0f;
#pragma unroll
  for (int step = 0; step < C::kDk * int(sizeof(E)) / 32; ++step) {
    uint32_t a[4];
    load_matrices(a, q_tile + chunk_offset<C::kQTile>(q_row + lane % 16, 2 * step + lane / 16));
#pragma unroll
    for (int n = 0; n < C::kWarpKeys / 16; ++n) {
      uint32_t b[4];
      const int key = first_key + 16 * n + lane / 16 * 8 + lane % 8;
      load_matrices(b, k_tile + chunk_offset<C::kKvTile>(key, 2 * step + lane / 8 % 2));
      multiply_step<E>(s + 8 * n, a, b[0], b[1]);
      multiply_step<E>(s + 8 * n + 4, a, b[2], b[3]);
    }
  }
}

// O (16 x kDv) += P V for one warp; P is rounded to the element type.
template <class C>
FA_DEVICE void multiply_p_v(float (&o)[C::kDv / 2], const float (&s)[C::kWarpKeys / 2],
                            uint32_t v_tile, int first_key, int lane) {
  using E = typename C::E;
  if constexpr (sizeof(E) == 2) {
    uint32_t p[C::kWarpKeys / 4];
    round_probabilities<E>(s, p);
#pragma unroll
    for (int step = 0; step < C::kWarpKeys / 16; ++step) {
      const uint32_t a[4] = {p[4 * step], p[4 * step + 1], p[4 * step + 2], p[4 * step + 3]};
#pragma unroll
      for (int n = 0; n < C::kDv / 16; ++n) {
        uint32_t b[4];
        const int key = first_key + 16 * step + lane % 16;
        load_matrices_transposed(b, v_tile + chunk_offset<C::kKvTile>(key, 2 * n + lane / 16));
        multiply_step<E>(o + 8 * n, a, b[0], b[1]);
        multiply_step<E>(o + 8 * n + 4, a, b[2], b[3]);
      }
    }
  } else {
    // The order of keys inside a step is free as long as P and V agree: with keys 2c and 2c + 1 in
    // the places c and c + 4, P is where the first product left it.
#pragma unroll
    for (int step = 0; step < C::kWarpKeys / 8; ++step) {
      const uint32_t a[4] = {float_to_bits(s[4 * step]), float_to_bits(s[4 * step + 2]),
                             float_to_bits(s[4 * step + 1]), float_to_bits(s[4 * step + 3])};
      const int key = first_key + 8 * step + lane % 4 * 2, inside = lane / 4 % 4 * 4;
#pragma unroll
      for (int n = 0; n < C::kDv / 8; ++n) {
        const int chunk = 2 * n + lane / 16;
        multiply_step<E>(
            o + 4 * n, a, load_shared_word(v_tile + chunk_offset<C::kKvTile>(key, chunk) + inside),
            load_shared_word(v_tile + chunk_offset<C::kKvTile>(key + 1, chunk) + inside));
      }
    }
  }
}

// What one block works on.
template <class E>
struct MmaBlock {
  HeadView<const E> k, v;
  TileRange range;
  Band band;
};

// The main loop: leaves the warp's unnormalised O and row state.
template <class C>
FA_DEVICE void attend(const Words& w, const MmaBlock<typename C::E>& block,
                      const GeneralScore<typename C::E>& general, const LaneRows& rows,
                      const ScoreScale& scale, uint32_t q_tile, float (&o)[C::kDv / 2], RowState& state) {
  using E = typename C::E;
  const int thread = thread_index(), lane = thread % 32, warp = warp_uniform(thread / 32);
  const int q_row = warp / C::kKeyWarps * 16, first_key = warp % C::kKeyWarps * C::kWarpKeys;
  const uint32_t ring = q_tile + C::kQBytes;
  const int kv_len = w.kv_len(), count = block.range.end - block.range.begin;
  // Tiles are visited from the last one, which needs masking more often than the first.
  auto load_k = [&](int i) {
    if (i < count)
      load_tile<C::kKvTile, C::kDk, C::kThreads>(ring + i % C::kStages * C::kStageBytes, block.k,
                                                 (block.range.end - 1 - i) * C::kKvTile, kv_len,
                                                 thread);
    copy_async_commit();
  };
  auto load_v = [&](int i) {
    if (i < count)
      load_tile<C::kKvTile, C::kDv, C::kThreads>(
          ring + i % C::kStages * C::kStageBytes + C::kKBytes, block.v,
          (block.range.end - 1 - i) * C::kKvTile, kv_len, thread);
    copy_async_commit();
  };
  for (int i = 0; i < C::kStages - 1; ++i) {
    load_k(i);
    load_v(i);
  }
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const int tile = block.range.end - 1 - i;
    const uint32_t k_tile = ring + i % C::kStages * C::kStageBytes;
    copy_async_wait<2 * C::kStages - 3>();  // K of this tile (and Q) has arrived
    block_sync();  // for every thread; and the slot of the previous tile is free
    load_k(i + C::kStages - 1);
    load_v(i + C::kStages - 1);
    float s[C::kWarpKeys / 2];
    multiply_q_k<C>(s, q_tile, k_tile, q_row, first_key, lane);
    const int key = tile * C::kKvTile + first_key + 2 * (lane % 4);
    if constexpr (C::kGeneral) {
      general.apply(s, block.band, rows, key);
    } else {
      scale_scores(s, scale);
      if (!block.range.full(tile)) mask_band(s, block.band, rows, key, kv_len);
    }
    float correction[2];
    online_softmax(s, state, scale.softmax, correction);
    scale_rows(o, correction);
    copy_async_wait<2 * C::kStages - 2>();  // V of this tile has arrived
    block_sync();
    multiply_p_v<C>(o, s, k_tile + C::kKBytes, first_key, lane);
  }
  copy_async_wait<0>();
  block_sync();
}

// Role "forward": a q tile of one head, written to O.
template <class C>
FA_DEVICE void forward_block(const Words& w, const void* q, const void* k, const void* v,
                             const void* mask, const void* bias, const void* sinks, void* out) {
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
  const int row = first_row + warp * 16 + lane / 4;
  const LaneRows rows = {{row, row + 8}, {place.head, place.head}};
  const GeneralScore<E> general = {w, static_cast<const uint8_t*>(mask), bias, place.batch};
  float o[C::kDv / 2] = {};
  RowState state = empty_rows();
  const ScoreScale scale = score_scale(w, C::kGeneral);
  attend<C>(w, block, general, rows, scale, q_tile, o, state);

  float factor[2];
  finish_rows(w, static_cast<const float*>(sinks), rows, scale.softmax, state, factor);
  const HeadView<E> view = o_view<E>(w, out, place.batch, place.head);
  store_rows<E, C::kQTile, C::kDv>(o, factor, q_tile, warp * 16, view.columns, view.column_stride,
                                   view.vector, lane, [&](int r) -> E* {
                                     const int at = first_row + warp * 16 + r;
                                     return at < w.q_len() ? view.at(at, 0) : nullptr;
                                   });
}

}  // namespace fa
