// plugin/cuda/src/hopper.cuh for the host: the same functions on the double's machine.
#pragma once

#include "primitives.cuh"

namespace fa {

// ---- Barriers in shared memory ------------------------------------------------------------------

inline machine::TransactionBarrier& barrier_at(uint32_t barrier) {
  machine::shared_at(barrier, 8);
  return machine::block->barriers[barrier];
}
inline void complete_if_due(machine::TransactionBarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.expected;
  barrier.phase ^= 1;
  ++machine::block->progress;
}
inline void barrier_init(uint32_t barrier, int arrivals) {
  barrier_at(barrier) = {arrivals, arrivals, 0, 0};
}
inline void fence_async_proxy() {}
inline void barrier_arrive(uint32_t barrier) {
  machine::TransactionBarrier& at = barrier_at(barrier);
  if (at.pending == 0) machine::fail("too many arrivals at a barrier");
  --at.pending;
  complete_if_due(at);
}
inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  barrier_at(barrier).bytes += bytes;
  barrier_arrive(barrier);
}
inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  if (barrier_at(barrier).expected == 0) machine::fail("barrier is not initialised");
  while (barrier_at(barrier).phase == parity) machine::yield();
}
inline void named_sync(int id, int threads) { machine::meet_named(id, threads, true); }
inline void named_arrive(int id, int threads) { machine::meet_named(id, threads, false); }
template <int kRegisters>
inline void give_registers() {}
template <int kRegisters>
inline void take_registers() {}

// ---- The tensor copy engine ---------------------------------------------------------------------

struct RowMap {
  const void* base;
  uint32_t columns, rows;
  uint64_t row_bytes;
  uint32_t box_rows;
};
constexpr int kMapBytes = 128;
inline std::map<uint32_t, RowMap> written_maps;
inline RowMap slot_maps[2];

inline uint32_t take_map_slot() { return 0; }
inline void free_map_slot(uint32_t) {}
inline void* map_in_slot(uint32_t, int index) { return &slot_maps[index]; }
inline void write_map(uint32_t at, const RowMap& rows) {
  if (at % 128 != 0) machine::fail("tensor map is not aligned");
  if (reinterpret_cast<uintptr_t>(rows.base) % 16 != 0 || rows.row_bytes % 16 != 0)
    machine::fail("tensor map of unaligned rows");
  written_maps[at] = rows;
}
inline void publish_map(void* slot, uint32_t at) {
  machine::meet_warp("publish_map");
  *static_cast<RowMap*>(slot) = written_maps.at(at);
}
inline void copy_box(uint32_t destination, const void* map, int column, int row,
                     uint32_t barrier) {
  const RowMap& rows = *static_cast<const RowMap*>(map);
  if (destination % 1024 != 0) machine::fail("box is not aligned to its swizzle");
  for (uint32_t r = 0; r < rows.box_rows; ++r) {
    for (uint32_t c = 0; c < 64; ++c) {
      uint16_t value = 0;
      const int64_t at_row = int64_t(row) + r, at_column = int64_t(column) + c;
      if (at_row >= 0 && at_row < rows.rows && at_column < rows.columns)
        std::memcpy(&value, static_cast<const uint8_t*>(rows.base) + at_row * rows.row_bytes +
                                at_column * 2, 2);
      store_shared(destination + r * 128 + (((c / 8) ^ (r % 8)) * 16) + c % 8 * 2, value);
    }
  }
  machine::TransactionBarrier& at = barrier_at(barrier);
  at.bytes -= int64_t(rows.box_rows) * 128;
  complete_if_due(at);
}

// ---- Warpgroup matrix products ------------------------------------------------------------------

inline uint64_t matrix_descriptor(uint32_t address, uint32_t next_panel, uint32_t next_eight) {
  return uint64_t(address >> 4 & 0x3fff) | uint64_t(next_panel >> 4) << 16 |
         uint64_t(next_eight >> 4) << 32 | uint64_t(1) << 62;
}
// The element of an operand: `major` along its 128-byte rows, `minor` across them.
template <class E>
inline float operand_element(uint64_t descriptor, uint32_t major, uint32_t minor) {
  uint32_t address = uint32_t(descriptor & 0x3fff) << 4;
  address += major / 64 * (uint32_t(descriptor >> 16 & 0x3fff) << 4) + major % 64 * 2;
  address += minor / 8 * (uint32_t(descriptor >> 32 & 0x3fff) << 4) + minor % 8 * 128;
  address ^= (address >> 7 & 7) << 4;
  return to_float(E{shared_half(address)});
}

inline void products_begin() {}
inline void products_commit() { machine::self().products.emplace_back(); }
template <int pending>
inline void products_wait() {
  machine::run_groups(machine::self().products, pending);
}
template <int kCount>
inline void pin(float (&)[kCount]) {}

template <class E, int kCount>
inline void product_shared(float (&d)[kCount], uint64_t a, uint64_t b, bool accumulate) {
  const int thread = machine::block->current % 128;
  const int row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
  float* out = d;
  machine::self().products.back().push_back([=] {
    for (int i = 0; i < kCount; ++i) {
      double sum = 0;
      for (int k = 0; k < 16; ++k)
        sum += double(operand_element<E>(a, k, row + i / 2 % 2 * 8)) *
               operand_element<E>(b, k, i / 4 * 8 + column + i % 2);
      out[i] = (accumulate ? out[i] : 0.0f) + float(sum);
    }
  });
}

struct FragmentLane {
  uint32_t a[4];
  float (*rows)[16];
};
template <class E, int kCount>
inline void product_registers(float (&d)[kCount], const uint32_t* a, uint64_t b) {
  struct Rows {
    float value[2][16];
  } rows;
  FragmentLane lane = {{a[0], a[1], a[2], a[3]}, rows.value};
  machine::meet_warp("wgmma", &lane, [](std::vector<void*>& lanes) {
    for (int i = 0; i < 32; ++i)
      for (int giver = i / 4 * 4; giver < i / 4 * 4 + 4; ++giver)
        for (int r = 0; r < 4; ++r)
          for (int half = 0; half < 2; ++half)
            static_cast<FragmentLane*>(lanes[i])->rows[r % 2][giver % 4 * 2 + half + r / 2 * 8] =
                half_of<E>(static_cast<FragmentLane*>(lanes[giver])->a[r], half);
  });
  const int column = machine::block->current % 4 * 2;
  float* out = d;
  machine::self().products.back().push_back([=] {
    for (int i = 0; i < kCount; ++i) {
      double sum = 0;
      for (int k = 0; k < 16; ++k)
        sum += double(rows.value[i / 2 % 2][k]) *
               operand_element<E>(b, i / 4 * 8 + column + i % 2, k);
      out[i] += float(sum);
    }
  });
}

}  // namespace fa
