// Tiles of rows x head dim in shared memory, and filling them.
//
// A tile is a sequence of panels of 128 bytes a row (64 columns of 16 bits, 32 of f32); in a panel
// the 16-byte chunk c of row r lies at chunk c ^ (r % 8). That is the "128-byte swizzle" of the
// tensor copy engine and of wgmma, and it also keeps ldmatrix free of bank conflicts, so all
// families share it.
#pragma once

#include "arguments.cuh"

namespace fa {

constexpr int kPanelRowBytes = 128;

template <class E>
constexpr uint32_t tile_bytes(int rows, int columns) {
  return uint32_t(rows) * kPanelRowBytes * ((columns * int(sizeof(E)) + 127) / 128);
}

// Byte offset of 16-byte chunk `chunk` of a row.
template <int kRows>
FA_DEVICE uint32_t chunk_offset(int row, int chunk) {
  return (chunk >> 3) * (kRows * kPanelRowBytes) + row * kPanelRowBytes +
         (((chunk & 7) ^ (row & 7)) << 4);
}

// One chunk gathered element by element: any stride, any alignment, zeros past the last column.
template <class E>
FA_DEVICE Word4 gather_chunk(const HeadView<const E>& view, int64_t row, int column) {
  constexpr int kPerWord = 4 / int(sizeof(E));
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kChunk<E>; ++i) {
    if (column + i < view.columns)
      words[i / kPerWord] |= uint32_t(view.at(row, column + i)->bits) << 16 * (i % kPerWord);
  }
  return {words[0], words[1], words[2], words[3]};
}

// Fills a tile with rows first_row.. of the view; rows from `row_end` on and columns past the
// view's are zeros. The caller commits and waits (copy_async_commit), then synchronises.
// `kUnroll` bounds the copies whose addresses are held at once.
template <int kRows, int kColumns, int kThreads, int kUnroll = 64, class E>
FA_DEVICE void load_tile(uint32_t tile, const HeadView<const E>& view, int first_row, int row_end,
                         int thread) {
  constexpr int kChunks = kColumns / kChunk<E>;
  constexpr int kAcross = kChunks < kThreads ? kChunks : kThreads;  // chunks of a row at once
  constexpr int kStep = kThreads / kAcross;                         // rows at once
  static_assert(kChunks % kAcross == 0 && kThreads % kAcross == 0 && kRows % kStep == 0,
                "threads share the chunks evenly");
  const int row = thread / kAcross;
#pragma unroll
  for (int chunk = thread % kAcross; chunk < kChunks; chunk += kAcross) {
    const int limit = chunk * kChunk<E> < view.columns ? row_end - first_row : 0;
    if (view.vector) {
      const E* source = view.at(first_row + row, chunk * kChunk<E>);
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
        if (r < limit) value = gather_chunk(view, first_row + r, chunk * kChunk<E>);
        store_shared(tile + chunk_offset<kRows>(r, chunk), value);
      }
    }
  }
}

}  // namespace fa
