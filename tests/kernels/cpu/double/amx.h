// A double of plugin/cpu/amx.h for machines without AMX: the tiles are memory of the thread.
#pragma once
#include <stdint.h>

namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileColumns = 16;

typedef uint32_t Tile[kTileRows][kTileColumns];
thread_local Tile tiles[8];
thread_local bool configured;

inline void poison_tiles() {
  for (auto &tile : tiles)
    for (auto &row : tile)
      for (uint32_t &word : row) word = 0xffffffffu;  // NaN
}

struct TileRegisters {
  TileRegisters() {
    if (configured) __builtin_trap();
    configured = true;
    poison_tiles();
  }
  ~TileRegisters() {
    poison_tiles();
    configured = false;
  }
  TileRegisters(const TileRegisters &) = delete;
};

// As the processor, which raises a fault on tiles that are not configured.
inline Tile &tile(int number) {
  if (!configured) __builtin_trap();
  return tiles[number];
}

template <int T>
inline void tile_load(const float *from, int64_t step) {
  for (int i = 0; i < kTileRows; ++i) __builtin_memcpy(tile(T)[i], from + i * step, 64);
}
template <int T>
inline void tile_store(float *to, int64_t step) {
  for (int i = 0; i < kTileRows; ++i) __builtin_memcpy(to + i * step, tile(T)[i], 64);
}
template <int T>
inline void tile_zero() {
  for (auto &row : tile(T))
    for (uint32_t &word : row) word = 0;
}

// The processor's arithmetic: a pair's products are added to the sum one after the other, and
// subnormal numbers count as zero.
inline float flushed(uint32_t bits) {
  return __builtin_bit_cast(float, (bits & 0x7f800000u) ? bits : bits & 0x80000000u);
}

template <int C, int A, int B>
inline void tile_dot() {
  const Tile &a = tile(A), &b = tile(B);
  Tile &c = tile(C);
  for (int i = 0; i < kTileRows; ++i) {
    float row[kTileColumns];
    for (int n = 0; n < kTileColumns; ++n) row[n] = __builtin_bit_cast(float, c[i][n]);
    for (int k = 0; k < kTileColumns; ++k) {
      const float low = flushed(a[i][k] << 16), high = flushed(a[i][k] & 0xffff0000u);
      for (int n = 0; n < kTileColumns; ++n) {
        row[n] = __builtin_fmaf(low, flushed(b[k][n] << 16), row[n]);
        row[n] = __builtin_fmaf(high, flushed(b[k][n] & 0xffff0000u), row[n]);
      }
    }
    for (int n = 0; n < kTileColumns; ++n)
      c[i][n] = (__builtin_bit_cast(uint32_t, row[n]) & 0x7f800000u)
                    ? __builtin_bit_cast(uint32_t, row[n])
                    : 0;
  }
}

}  // namespace
