// Attention on Hopper's warpgroup products (sm_90a): one block computes kGroups x 64 rows.
//
// A producer warpgroup brings K and V tiles into two rings; each consumer warpgroup computes 64
// rows. In a consumer, Q K^T of one tile runs while the probabilities of the tile before it are
// multiplied with V, and its softmax runs under that product; two consumers take turns at issuing
// products, so that one's softmax runs under the other's products (FlashAttention-3, section 3).
#pragma once

#include <hopper.cuh>

#include "epilogue.cuh"

namespace fa {

template <class Element, int kDk_, int kDv_, int kGroups_, int kKvTile_, int kStages_,
          bool kTakeTurns_, bool kGeneral_, int kBlocks_>
struct WgmmaConfig {
  using E = Element;
  static constexpr int kDk = kDk_, kDv = kDv_;  // head dims served, multiples of 64
  static constexpr int kGroups = kGroups_;      // consumer warpgroups
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kQTile = 64 * kGroups, kKvTile = kKvTile_;
  static constexpr int kStages = kStages_;
  static constexpr bool kTakeTurns = kTakeTurns_;
  static constexpr bool kGeneral = kGeneral_;  // masks, bias, softcap, finite fill
  static constexpr int kBlocks = kBlocks_;     // at once on a multiprocessor
  static_assert(kBlocks == 1 || (kBlocks == 2 && kGroups == 2), "registers for these");
  static constexpr int kProducerRegisters = kBlocks == 2 ? 24 : kGroups == 3 ? 32 : 40;
  static constexpr int kConsumerRegisters = kBlocks == 2 ? 104 : kGroups == 3 ? 160 : 232;
  static constexpr uint32_t kQBytes = tile_bytes<E>(64, kDk > kDv ? kDk : kDv);  // a warpgroup's
  static constexpr uint32_t kKBytes = tile_bytes<E>(kKvTile, kDk);
  static constexpr uint32_t kVBytes = tile_bytes<E>(kKvTile, kDv);
  static constexpr uint32_t kMaps = kGroups * kQBytes + kStages * (kKBytes + kVBytes);
  static constexpr uint32_t kBarriers = kMaps + 2 * 128;
  static constexpr uint32_t kSharedBytes = 1024 + kBarriers + 4 * kStages * 8 + 16;
  static_assert(!kTakeTurns || kGroups == 2, "turns are between two");
  static_assert(kSharedBytes <= 227 * 1024, "a block has 227 KB");
};

// Where things lie in a block's shared memory.
template <class C>
struct WgmmaShared {
  uint32_t base;
  FA_DEVICE uint32_t q(int group) const { return base + group * C::kQBytes; }
  FA_DEVICE uint32_t k(int slot) const { return base + C::kGroups * C::kQBytes + slot * C::kKBytes; }
  FA_DEVICE uint32_t v(int slot) const { return k(C::kStages) + slot * C::kVBytes; }
  FA_DEVICE uint32_t map(int index) const { return base + C::kMaps + index * kMapBytes; }
  FA_DEVICE uint32_t k_full(int slot) const { return base + C::kBarriers + slot * 8; }
  FA_DEVICE uint32_t k_free(int slot) const { return k_full(C::kStages + slot); }
  FA_DEVICE uint32_t v_full(int slot) const { return k_full(2 * C::kStages + slot); }
  FA_DEVICE uint32_t v_free(int slot) const { return k_full(3 * C::kStages + slot); }
  FA_DEVICE uint32_t map_slot() const { return k_full(4 * C::kStages); }
};

// Names of the block's barriers (0 belongs to block_sync).
constexpr int kTurnBarrier = 1, kGroupBarrier = 3;

// What one block works on.
template <class E>
struct WgmmaBlock {
  HeadView<const E> k, v;
  TileRange range;
  Band band;
  bool by_engine;  // K and V come through the tensor copy engine
};

// Position in a ring: slot and parity of its i-th use.
template <int kStages>
struct RingPlace {
  int slot;
  uint32_t parity;
  FA_DEVICE explicit RingPlace(int i) : slot(i % kStages), parity(i / kStages & 1) {}
};

// ---- Producer -----------------------------------------------------------------------------------

// Before the block's first synchronisation: single threads of three warps prepare the maps, which
// takes a while (a slot costs a round trip to memory).
template <class C>
FA_DEVICE void prepare_maps(const WgmmaShared<C>& shared,
                            const WgmmaBlock<typename C::E>& block, int kv_len, int thread) {
  const auto rows = [&](const HeadView<const typename C::E>& view) -> RowMap {
    return {view.base, uint32_t(view.columns), uint32_t(kv_len), uint64_t(view.row_stride) * 2,
            uint32_t(C::kKvTile)};
  };
  if (thread == 32) store_shared(shared.map_slot(), take_map_slot());
  if (thread == 64) write_map(shared.map(0), rows(block.k));
  if (thread == 96) write_map(shared.map(1), rows(block.v));
}

// Warp 0 brings the K tiles, warp 1 the V tiles.
template <class C>
FA_DEVICE void produce_by_engine(const WgmmaShared<C>& shared,
                                 const WgmmaBlock<typename C::E>& block, int warp, int lane) {
  const int count = block.range.end - block.range.begin;
  const bool is_v = warp == 1;
  const uint32_t slot = load_shared_word(shared.map_slot());
  if (count == 0) {
    if (!is_v && lane == 0) free_map_slot(slot);
    return;
  }
  void* map = map_in_slot(slot, warp);
  publish_map(map, shared.map(warp));
  if (lane != 0) return;
  const uint32_t bytes = is_v ? C::kVBytes : C::kKBytes;
  const int panels = (is_v ? C::kDv : C::kDk) / 64;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const RingPlace<C::kStages> at(i);
    const uint32_t full = is_v ? shared.v_full(at.slot) : shared.k_full(at.slot);
    const uint32_t tile = is_v ? shared.v(at.slot) : shared.k(at.slot);
    barrier_wait(is_v ? shared.v_free(at.slot) : shared.k_free(at.slot), at.parity ^ 1);
    barrier_expect(full, bytes);
#pragma unroll 1
    for (int panel = 0; panel < panels; ++panel)
      copy_box(tile + panel * C::kKvTile * 128, map, panel * 64,
               (block.range.end - 1 - i) * C::kKvTile, full);
  }
  if (is_v) return;
  const RingPlace<C::kStages> last(count - 1);  // the maps are in use until its copies have landed
  barrier_wait(shared.k_full(last.slot), last.parity);
  barrier_wait(shared.v_full(last.slot), last.parity);
  free_map_slot(slot);
}

// For operands that the engine cannot take (unaligned or transposed): the warpgroup's threads copy,
// and a tile is handed over once the next one is on its way.
template <class C>
FA_DEVICE void produce_by_threads(const WgmmaShared<C>& shared,
                                  const WgmmaBlock<typename C::E>& block, int kv_len, int thread) {
  const int count = block.range.end - block.range.begin;
  uint32_t previous = 0;
  auto hand_over = [&](uint32_t barrier) {
    if (previous != 0) {
      copy_async_wait<1>();
      fence_async_proxy();
      barrier_arrive(previous);
    }
    previous = barrier;
  };
#pragma unroll 1
  for (int i = 0; i <= count; ++i) {
    if (i < count) {
      const RingPlace<C::kStages> at(i);
      barrier_wait(shared.k_free(at.slot), at.parity ^ 1);
      load_tile<C::kKvTile, C::kDk, 128, 4>(shared.k(at.slot), block.k,
                                         (block.range.end - 1 - i) * C::kKvTile, kv_len, thread);
      copy_async_commit();
      hand_over(shared.k_full(at.slot));
    }
    if (i > 0) {
      const RingPlace<C::kStages> at(i - 1);
      barrier_wait(shared.v_free(at.slot), at.parity ^ 1);
      load_tile<C::kKvTile, C::kDv, 128, 4>(shared.v(at.slot), block.v,
                                         (block.range.end - i) * C::kKvTile, kv_len, thread);
      copy_async_commit();
      hand_over(shared.v_full(at.slot));
    }
  }
  copy_async_commit();
  hand_over(0);
}

// ---- Consumers ----------------------------------------------------------------------------------

// Issues S (64 x kKvTile) = Q K^T.
template <class C>
FA_DEVICE void issue_q_k(float (&s)[C::kKvTile / 2], uint32_t q_tile, uint32_t k_tile) {
  const uint64_t q = matrix_descriptor(q_tile, 0, 1024), k = matrix_descriptor(k_tile, 0, 1024);
#pragma unroll
  for (int step = 0; step < C::kDk / 16; ++step) {
    const uint32_t panel = step / 4, inside = step % 4 * 32;
    product_shared<typename C::E>(s, q + ((panel * 64 * 128 + inside) >> 4),
                                  k + ((panel * C::kKvTile * 128 + inside) >> 4), step != 0);
  }
  products_commit();
}

// Issues O (64 x kDv) += P V.
template <class C>
FA_DEVICE void issue_p_v(float (&o)[C::kDv / 2], const uint32_t (&p)[C::kKvTile / 4],
                         uint32_t v_tile) {
  const uint64_t v = matrix_descriptor(v_tile, C::kKvTile * 128, 1024);
#pragma unroll
  for (int step = 0; step < C::kKvTile / 16; ++step)
    product_registers<typename C::E>(o, p + 4 * step, v + (step * 2048 >> 4));
  products_commit();
}

template <class C>
FA_DEVICE void consume(const Words& w, const WgmmaShared<C>& shared,
                       const WgmmaBlock<typename C::E>& block,
                       const GeneralScore<typename C::E>& general, const LaneRows& rows,
                       const ScoreScale& scale, int group, int lane, float (&o)[C::kDv / 2],
                       RowState& state) {
  using E = typename C::E;
  const int count = block.range.end - block.range.begin;
  if (count == 0) return;
  const uint32_t q_tile = shared.q(group);
  float s[C::kKvTile / 2];
  uint32_t p[C::kKvTile / 4];
  float correction[2];
  auto release = [&](uint32_t barrier) {
    if (lane == 0) barrier_arrive(barrier);
  };
  auto score = [&](int i) {
    const int tile = block.range.end - 1 - i, key = tile * C::kKvTile + 2 * (lane % 4);
    if constexpr (C::kGeneral) {
      general.apply(s, block.band, rows, key);
    } else {
      scale_scores(s, scale);
      if (!block.range.full(tile)) mask_band(s, block.band, rows, key, w.kv_len());
    }
    online_softmax(s, state, scale.softmax, correction);
  };

  if (C::kTakeTurns && group == 1 && count > 1) named_arrive(kTurnBarrier, 256);
  barrier_wait(shared.k_full(0), 0);
  products_begin();
  issue_q_k<C>(s, q_tile, shared.k(0));
  products_wait<0>();
  pin(s);
  release(shared.k_free(0));
  score(0);
  round_probabilities<E>(s, p);
#pragma unroll 1
  for (int i = 1; i < count; ++i) {
    const RingPlace<C::kStages> now(i), before(i - 1);
    barrier_wait(shared.k_full(now.slot), now.parity);
    if (C::kTakeTurns) named_sync(kTurnBarrier + group, 256);
    pin(s);
    pin(o);
    products_begin();
    issue_q_k<C>(s, q_tile, shared.k(now.slot));
    barrier_wait(shared.v_full(before.slot), before.parity);
    products_begin();
    issue_p_v<C>(o, p, shared.v(before.slot));
    if (C::kTakeTurns && !(group == 1 && i == count - 1))
      named_arrive(kTurnBarrier + 1 - group, 256);
    products_wait<1>();
    pin(s);
    release(shared.k_free(now.slot));
    score(i);
    products_wait<0>();
    pin(o);
    release(shared.v_free(before.slot));
    scale_rows(o, correction);
    round_probabilities<E>(s, p);
  }
  const RingPlace<C::kStages> last(count - 1);
  barrier_wait(shared.v_full(last.slot), last.parity);
  pin(o);
  products_begin();
  issue_p_v<C>(o, p, shared.v(last.slot));
  products_wait<0>();
  pin(o);
}

// ---- The block ----------------------------------------------------------------------------------

template <class E>
FA_DEVICE bool engine_takes(const HeadView<const E>& view) {
  return view.vector && view.row_stride > 0;
}

// Role "forward".
template <class C>
FA_DEVICE void forward_block(const Words& w, const void* q, const void* k, const void* v,
                             const void* mask, const void* bias, const void* sinks, void* lse,
                             void* out) {
  using E = typename C::E;
  const int thread = thread_index() % 128, role = warp_uniform(thread_index() / 128);
  const int q_blocks = (w.q_len() + C::kQTile - 1) / C::kQTile;
  const BlockPlace place = place_block(w, block_index(), q_blocks);
  const int kv_head = place.head / (w.heads() / w.kv_heads());
  const int first_row = place.q_block * C::kQTile;
  const int last_row = (first_row + C::kQTile < w.q_len() ? first_row + C::kQTile : w.q_len()) - 1;
  const bool finite_fill = C::kGeneral && w.number(FA_WORD_FILL) != -kInf;
  WgmmaBlock<E> block;
  block.k = k_view<E>(w, k, place.batch, kv_head);
  block.v = v_view<E>(w, v, place.batch, kv_head);
  block.band = band_of(w);
  block.range = tile_range<C::kKvTile>(block.band, first_row, last_row, w.kv_len(), finite_fill);
  block.by_engine = engine_takes(block.k) && engine_takes(block.v);
#ifdef FA_COPY_BY_THREADS
  block.by_engine = false;
#endif
  const WgmmaShared<C> shared = {shared_base()};
  if (thread_index() == 0) {
    for (int slot = 0; slot < C::kStages; ++slot) {
      const int producers = block.by_engine ? 1 : 128, consumers = 4 * C::kGroups;
      barrier_init(shared.k_full(slot), producers);
      barrier_init(shared.v_full(slot), producers);
      barrier_init(shared.k_free(slot), consumers);
      barrier_init(shared.v_free(slot), consumers);
    }
    fence_async_proxy();
  }
  if (block.by_engine && role == 0) prepare_maps<C>(shared, block, w.kv_len(), thread);
  block_sync();

  if (role == 0) {
    give_registers<C::kProducerRegisters>();
    const int warp = warp_uniform(thread / 32);
    if (!block.by_engine) {
      produce_by_threads<C>(shared, block, w.kv_len(), thread);
    } else if (warp < 2) {
      produce_by_engine<C>(shared, block, warp, thread % 32);
    }
  } else {
    take_registers<C::kConsumerRegisters>();
    const int group = role - 1, lane = thread % 32, warp = warp_uniform(thread / 32);
    const int group_row = first_row + 64 * group;
    load_tile<64, C::kDk, 128, 8>(shared.q(group), q_view<E>(w, q, place.batch, place.head),
                               group_row, w.q_len(), thread);
    copy_async_commit();
    copy_async_wait<0>();
    fence_async_proxy();
    named_sync(kGroupBarrier + group, 128);

    const int row = group_row + warp * 16 + lane / 4;
    const LaneRows rows = {{row, row + 8}, {place.head, place.head}};
    const GeneralScore<E> general = {w, static_cast<const uint8_t*>(mask), bias, place.batch};
    float o[C::kDv / 2];
#pragma unroll
    for (int i = 0; i < C::kDv / 2; ++i) o[i] = 0.0f;
    RowState state = empty_rows();
    const ScoreScale scale = score_scale(w, C::kGeneral);
    consume<C>(w, shared, block, general, rows, scale, group, lane, o, state);

    float factor[2];
    finish_rows(w, static_cast<const float*>(sinks), lse, place.batch, lane, rows, scale.softmax,
                state, factor);
    const HeadView<E> view = o_view<E>(w, out, place.batch, place.head);
    named_sync(kGroupBarrier + group, 128);  // Q's tile becomes the stage of O
    store_rows<E, 64, C::kDv>(o, factor, shared.q(group), warp * 16, view.columns,
                              view.column_stride, view.vector, lane, [&](int r) -> E* {
                                const int at = group_row + warp * 16 + r;
                                return at < w.q_len() ? view.at(at, 0) : nullptr;
                              });
  }
}

}  // namespace fa
