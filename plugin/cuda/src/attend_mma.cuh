// The main loop on mma.sync, for every GPU from sm_80 on: a block's rows over its range of keys.
//
// K and V tiles stream through a ring of `kStages` slots by asynchronous copies; probabilities stay
// in registers between the two products (FlashAttention-2, section 3). `kRowWarps` warps share the
// rows and `kKeyWarps` the keys of a tile: prefill splits rows, decode (few rows) splits keys and
// merges the warps' results at the end. A warp has `kRowTiles` times 16 rows: with two, every
// fragment of K and V that it reads from shared memory serves two products.
#pragma once

#include "epilogue.cuh"
#include "split_tf32.cuh"

namespace fa {

template <class Element, int kDk_, int kDv_, int kRowTiles_, int kRowWarps_, int kKeyWarps_,
          int kKvTile_, int kStages_, bool kGeneral_, bool kWeights_ = false>
struct MmaConfig {
  using E = Element;
  static constexpr int kDk = kDk_, kDv = kDv_;  // head dims served, multiples of 64
  static constexpr int kRowTiles = kRowTiles_, kRowWarps = kRowWarps_, kKeyWarps = kKeyWarps_;
  static constexpr int kThreads = 32 * kRowWarps * kKeyWarps;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kQTile = kWarpRows * kRowWarps, kKvTile = kKvTile_;
  static constexpr int kWarpKeys = kKvTile / kKeyWarps;  // keys of a tile that one warp takes
  static constexpr int kStages = kStages_;
  static constexpr bool kGeneral = kGeneral_;  // masks, bias, softcap, finite fill
  static constexpr bool kWeights = kWeights_;  // P is a second result
  static constexpr uint32_t kQBytes = tile_bytes<E>(kQTile, kDk > kDv ? kDk : kDv);
  static constexpr uint32_t kKBytes = tile_bytes<E>(kKvTile, kDk);
  static constexpr uint32_t kStageBytes = kKBytes + tile_bytes<E>(kKvTile, kDv);
  static constexpr uint32_t kSharedBytes = 1024 + kQBytes + kStages * kStageBytes;
  static_assert(kWarpKeys % 16 == 0 && kDk % 64 == 0 && kDv % 64 == 0, "whole fragments");
};

// S (kWarpRows x kWarpKeys) = Q K^T for one warp.
template <class C>
FA_DEVICE void multiply_q_k(float (&s)[C::kRowTiles][C::kWarpKeys / 2], uint32_t q_tile,
                            uint32_t k_tile, int q_row, int first_key, int lane) {
  using E = typename C::E;
#pragma unroll
  for (int m = 0; m < C::kRowTiles; ++m) {
#pragma unroll
    for (int i = 0; i < C::kWarpKeys / 2; ++i) s[m][i] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < C::kDk / 16; ++step) {
    uint32_t a[C::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < C::kRowTiles; ++m)
      load_matrices(a[m], q_tile + chunk_offset<C::kQTile>(q_row + 16 * m + lane % 16,
                                                           2 * step + lane / 16));
#pragma unroll
    for (int n = 0; n < C::kWarpKeys / 16; ++n) {
      uint32_t b[4];
      const int key = first_key + 16 * n + lane / 16 * 8 + lane % 8;
      load_matrices(b, k_tile + chunk_offset<C::kKvTile>(key, 2 * step + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < C::kRowTiles; ++m) {
        multiply_accumulate<E>(s[m] + 8 * n, a[m], b[0], b[1]);
        multiply_accumulate<E>(s[m] + 8 * n + 4, a[m], b[2], b[3]);
      }
    }
  }
}

// O (kWarpRows x kDv) += P V for one warp; P is rounded to the element type.
template <class C>
FA_DEVICE void multiply_p_v(float (&o)[C::kRowTiles][C::kDv / 2],
                            const float (&s)[C::kRowTiles][C::kWarpKeys / 2], uint32_t v_tile,
                            int first_key, int lane) {
  using E = typename C::E;
  uint32_t p[C::kRowTiles][C::kWarpKeys / 4];
#pragma unroll
  for (int m = 0; m < C::kRowTiles; ++m) round_probabilities<E>(s[m], p[m]);
#pragma unroll
  for (int step = 0; step < C::kWarpKeys / 16; ++step) {
#pragma unroll
    for (int n = 0; n < C::kDv / 16; ++n) {
      uint32_t b[4];
      const int key = first_key + 16 * step + lane % 16;
      load_matrices_transposed(b, v_tile + chunk_offset<C::kKvTile>(key, 2 * n + lane / 16));
#pragma unroll
      for (int m = 0; m < C::kRowTiles; ++m) {
        const uint32_t a[4] = {p[m][4 * step], p[m][4 * step + 1], p[m][4 * step + 2],
                               p[m][4 * step + 3]};
        multiply_accumulate<E>(o[m] + 8 * n, a, b[0], b[1]);
        multiply_accumulate<E>(o[m] + 8 * n + 4, a, b[2], b[3]);
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

// What one warp accumulates: for each 16 rows, O before normalisation and the softmax's state.
template <class C>
struct WarpResult {
  float o[C::kRowTiles][C::kDv / 2];
  RowState state[C::kRowTiles];

  FA_DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < C::kRowTiles; ++m) {
      state[m] = empty_rows();
#pragma unroll
      for (int i = 0; i < C::kDv / 2; ++i) o[m][i] = 0.0f;
    }
  }
};

// The main loop.
template <class C>
FA_DEVICE void attend(const Words& w, const MmaBlock<typename C::E>& block,
                      const GeneralScore<typename C::E>& general,
                      const LaneRows (&rows)[C::kRowTiles], const ScoreScale& scale,
                      uint32_t q_tile, WarpResult<C>& result) {
  const int thread = thread_index(), lane = thread % 32, warp = warp_uniform(thread / 32);
  const int q_row = warp / C::kKeyWarps * C::kWarpRows;
  const int first_key = warp % C::kKeyWarps * C::kWarpKeys;
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
    float s[C::kRowTiles][C::kWarpKeys / 2];
    if constexpr (sizeof(typename C::E) == 4) {
      static_assert(C::kRowTiles == 1, "f32 has its registers full");
      multiply_q_k_split<C::kQTile, C::kKvTile, C::kWarpKeys, C::kDk>(s[0], q_tile, k_tile, q_row,
                                                                      first_key, lane);
    } else {
      multiply_q_k<C>(s, q_tile, k_tile, q_row, first_key, lane);
    }
    const int key = tile * C::kKvTile + first_key + 2 * (lane % 4);
#pragma unroll
    for (int m = 0; m < C::kRowTiles; ++m) {
      if constexpr (C::kGeneral) {
        general.apply(s[m], block.band, rows[m], key);
      } else {
        scale_scores(s[m], scale);
        if (!block.range.full(tile)) mask_band(s[m], block.band, rows[m], key, kv_len);
      }
      float correction[2];
      online_softmax(s[m], result.state[m], scale.softmax, correction);
      scale_rows(result.o[m], correction);
    }
    copy_async_wait<2 * C::kStages - 2>();  // V of this tile has arrived
    block_sync();
    const uint32_t v_tile = k_tile + C::kKBytes;
    if constexpr (sizeof(typename C::E) == 4) {
      multiply_p_v_split<C::kKvTile, C::kWarpKeys, C::kDv>(result.o[0], s[0], v_tile, first_key,
                                                           lane);
    } else {
      multiply_p_v<C>(result.o, s, v_tile, first_key, lane);
    }
  }
  copy_async_wait<0>();
  block_sync();
}

}  // namespace fa
