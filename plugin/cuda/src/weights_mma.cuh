// P as a second result: once a row's maximum and sum are known, its scores are computed again.
//
// P is dense [batch, q_heads, q_len, kv_len], so every key of every row is written, also those of
// tiles that attention itself skips.
#pragma once

#include "attend_mma.cuh"

namespace fa {

// Two rows of P in one lane's hands.
template <class E>
struct WeightRows {
  E* row[2];  // null: past q_len
  int kv_len;
  bool pairs;  // two neighbouring elements may be stored at once

  FA_DEVICE void store(int r, int key, float low, float high) const {
    if (row[r] == nullptr || key >= kv_len) return;
    E* at = row[r] + key;
    if constexpr (sizeof(E) == 4) {
      at[0].bits = float_to_bits(low);
      if (key + 1 < kv_len) at[1].bits = float_to_bits(high);
    } else {
      const uint32_t both = pack2<E>(low, high);
      if (pairs) {
        *reinterpret_cast<uint32_t*>(at) = both;
        return;
      }
      at[0].bits = uint16_t(both);
      if (key + 1 < kv_len) at[1].bits = uint16_t(both >> 16);
    }
  }
};

template <class E>
FA_DEVICE WeightRows<E> weight_rows(const Words& w, void* weights, int batch,
                                    const LaneRows& rows) {
  E* base = static_cast<E*>(weights);
  WeightRows<E> out;
  out.kv_len = w.kv_len();
  out.pairs = out.kv_len % 2 == 0 && reinterpret_cast<uintptr_t>(base) % 4 == 0;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t row = (int64_t(batch) * w.heads() + rows.head[r]) * w.q_len() + rows.query[r];
    out.row[r] = rows.query[r] < w.q_len() ? base + row * out.kv_len : nullptr;
  }
  return out;
}

// The second pass over the keys, for blocks whose warps share the rows. `max` is that of the
// finished softmax, `factor` what takes 2^(score - max) to P. Q lies in `q_tile` still.
template <class C>
FA_DEVICE void write_weights(const Words& w, const MmaBlock<typename C::E>& block,
                             const GeneralScore<typename C::E>& general, const LaneRows& rows,
                             uint32_t q_tile, const float (&max)[2], const float (&factor)[2],
                             const WeightRows<typename C::E>& out) {
  static_assert(C::kGeneral && C::kRowTiles == 1 && C::kKeyWarps == 1, "one kind of row writes P");
  static_assert(C::kQBytes <= C::kStages * C::kStageBytes, "O passes through the ring");
  const int thread = thread_index(), lane = thread % 32, warp = warp_uniform(thread / 32);
  const int kv_len = w.kv_len(), tiles = (kv_len + C::kKvTile - 1) / C::kKvTile;
  const uint32_t ring = q_tile + C::kQBytes;
  auto visited = [&](int tile) { return tile >= block.range.begin && tile < block.range.end; };
  auto load = [&](int tile) {
    if (tile < tiles && visited(tile))
      load_tile<C::kKvTile, C::kDk, C::kThreads>(ring + tile % 2 * C::kKBytes, block.k,
                                                 tile * C::kKvTile, kv_len, thread);
    copy_async_commit();
  };
  load(0);
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    float s[1][C::kWarpKeys / 2];
    const int key = tile * C::kKvTile + 2 * (lane % 4);
    load(tile + 1);
    if (visited(tile)) {
      const uint32_t k_tile = ring + tile % 2 * C::kKBytes;
      copy_async_wait<1>();
      block_sync();
      if constexpr (sizeof(typename C::E) == 4) {
        multiply_q_k_split<C::kQTile, C::kKvTile, C::kWarpKeys, C::kDk>(s[0], q_tile, k_tile,
                                                                        16 * warp, 0, lane);
      } else {
        multiply_q_k<C>(s, q_tile, k_tile, 16 * warp, 0, lane);
      }
      general.apply(s[0], block.band, rows, key);
    } else {
#pragma unroll
      for (int i = 0; i < C::kWarpKeys / 2; ++i) s[0][i] = -kInf;
    }
#pragma unroll
    for (int i = 0; i < C::kWarpKeys / 2; i += 2) {
      const int r = (i >> 1) & 1;
      const float base = reference(max[r]);
      out.store(r, key + i / 4 * 8, exp2_fast(s[0][i] - base) * factor[r],
                exp2_fast(s[0][i + 1] - base) * factor[r]);
    }
    block_sync();  // before the slot is filled again
  }
  copy_async_wait<0>();
}

}  // namespace fa
