// AMX: eight tile registers of 16 rows of 64 bytes. All of them are configured to their full size,
// and operands are padded to it.
//
// Included as <amx.h>, so that a test can put a double of this file in front of it.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace {

constexpr int64_t kTileRows = 16;    // rows of a tile
constexpr int64_t kTileColumns = 16; // f32 in its rows, or pairs of bf16

// The registers hold something between the construction and the end of this object. A thread has to
// have the operating system's permission first (plugin/runtime).
struct TileRegisters {
  TileRegisters() {
    struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t bytes_a_row[16];
      uint8_t rows[16];
    } config = {};
    config.palette = 1;
    for (int i = 0; i < 8; ++i) config.bytes_a_row[i] = 64, config.rows[i] = kTileRows;
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters &) = delete;
};

// Rows lie `step` words of 32 bits apart.
template <int T>
inline __attribute__((always_inline)) void tile_load(const float *from, int64_t step) {
  _tile_loadd(T, from, step * 4);
}
template <int T>
inline __attribute__((always_inline)) void tile_store(float *to, int64_t step) {
  _tile_stored(T, to, step * 4);
}
template <int T>
inline __attribute__((always_inline)) void tile_zero() {
  _tile_zero(T);
}
// C[16][16] += A[16][32] · B[32][16]: A row-major, B's rows in pairs, element (2i + j, n) at
// word (i, n), half j.
template <int C, int A, int B>
inline __attribute__((always_inline)) void tile_dot() {
  _tile_dpbf16ps(C, A, B);
}

}  // namespace
