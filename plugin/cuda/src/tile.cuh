// Tiles of rows x head dim in shared memory, and filling them.
//
// A tile is a sequence of panels of 64 columns (128 bytes a row); in a panel the 16-byte chunk c of
// row r lies at chunk c ^ (r % 8). That is the "128-byte swizzle" of the tensor copy engine and of
// wgmma, and it also keeps ldmatrix free of bank conflicts, so both families share it.
#pragma once

#include "arguments.cuh"

namespace fa {

constexpr int kPanelColumns = 64;
constexpr int kPanelRowBytes = 128;

constexpr int panels(int columns) { return (columns + kPanelColumns - 1) / kPanelColumns; }
constexpr uint32_t tile_bytes(int rows, int columns) {
  return uint32_t(rows) * kPanelRowBytes * panels(columns);
}

// Byte offset of 16-byte chunk `chunk` (8 columns) of a row.
template <int kRows>
FA_DEVICE uint32_t chunk_offset(int row, int chunk) {
  return (chunk >> 3) * (kRows * kPanelRowBytes) + row * kPanelRowBytes +
         (((chunk & 7) ^ (row & 7)) << 4);
}

// Eight elements gathered one by one: any stride, any alignment, zeros from column `columns` on.
template <class E>
FA_DEVICE Word4 gather_chunk(const HeadView<const E>& view, int64_t row, int column) {
  uint32_t packed[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int c = column + 2 * i;
    const uint32_t low = c < view.columns ? view.at(row, c)->bits : 0;
    const uint32_t high = c + 1 < view.columns ? view.at(row, c + 1)->bits : 0;
    packed[i] = low | high << 16;
  }
  return {packed[0], packed[1], packed[2], packed[3]};
}

// Fills a tile with rows first_row.. of the view; rows from `row_end` on and columns past the
// view's are zeros. The caller commits and waits (copy_async_commit), then synchronises.
// `kUnroll` bounds the copies whose addresses are held at once.
template <int kRows, int kColumns, int kThreads, int kUnroll = 64, class E>
FA_DEVICE void load_tile(uint32_t tile, const HeadView<const E>& view, int first_row, int row_end,
                         int thread) {
  constexpr int kChunks = kColumns / 8;
  constexpr int kStep = kThreads / kChunks;  // rows filled at once
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0, "threads share the chunks evenly");
  const int chunk = thread % kChunks, row = thread / kChunks;
  const int limit = chunk * 8 < view.columns ? row_end - first_row : 0;
  if (view.vector) {
    const E* source = view.at(first_row + row, chunk * 8);
    const int64_t step = kStep * view.row_stride;
#pragma unroll(kUnroll)
    for (int i = 0; i < kRows / kStep; ++i, source += step) {
      const int r = row + i * kStep;
      const bool inside = r < limit;
      copy_async(tile + chunk_offset<kRows>(r, chunk), inside ? source : view.base,
                 inside ? 16 : 0);
    }
  } else {
#pragma unroll 1
    for (int r = row; r < kRows; r += kStep) {
      Word4 value = {0, 0, 0, 0};
      if (r < limit) value = gather_chunk(view, first_row + r, chunk * 8);
      store_shared(tile + chunk_offset<kRows>(r, chunk), value);
    }
  }
}

}  // namespace fa
