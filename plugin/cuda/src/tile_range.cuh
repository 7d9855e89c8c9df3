// Which key tiles a block of query rows visits, and which of them need element masking.
#pragma once

#include "arguments.cuh"

namespace fa {

constexpr int kOpenLow = -(1 << 30), kOpenHigh = 1 << 30;

// lo <= key - row <= hi; an open side is far outside any length.
struct Band {
  int lo, hi;
};

FA_DEVICE Band band_of(const Words& w) {
  return {w.flag(FA_FLAG_BAND_LO) ? int(w[FA_WORD_BAND_LO]) : kOpenLow,
          w.flag(FA_FLAG_BAND_HI) ? int(w[FA_WORD_BAND_HI]) : kOpenHigh};
}

// Sums with band limits; these may be any 32-bit values.
FA_DEVICE int add_saturating(int a, int b) {
  const int64_t sum = int64_t(a) + b;
  return sum > kOpenHigh ? kOpenHigh : sum < kOpenLow ? kOpenLow : int(sum);
}

// Tiles [begin, end) of `kv_tile` keys; those in [full_begin, full_end) have every element of
// every row inside the band and inside kv_len.
struct TileRange {
  int begin, end, full_begin, full_end;
  FA_DEVICE bool full(int tile) const { return tile >= full_begin && tile < full_end; }
};

FA_DEVICE int clamp(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

// For query rows [first_row, last_row]. With `all`, no tile is skipped: masked elements count,
// because they score a finite fill.
template <int kKvTile>
FA_DEVICE TileRange tile_range(const Band& band, int first_row, int last_row, int kv_len,
                               bool all) {
  const int key_begin = clamp(add_saturating(first_row, band.lo), 0, kv_len);
  const int key_end = clamp(add_saturating(last_row, band.hi), -1, kv_len - 1) + 1;
  const int full_begin = clamp(add_saturating(last_row, band.lo), 0, kv_len);
  const int full_end = clamp(add_saturating(first_row, band.hi), -1, kv_len - 1) + 1;
  TileRange range;
  range.begin = all ? 0 : key_begin / kKvTile;
  range.end = (all ? kv_len : key_end) / kKvTile + ((all ? kv_len : key_end) % kKvTile != 0);
  if (range.end < range.begin) range.end = range.begin;
  range.full_begin = (full_begin + kKvTile - 1) / kKvTile;
  range.full_end = full_end / kKvTile;
  return range;
}

// The part of a range that split `index` of `count` takes.
FA_DEVICE TileRange split_range(TileRange range, int index, int count) {
  const int tiles = range.end - range.begin;
  const int share = (tiles + count - 1) / count;
  const int begin = range.begin + index * share;
  range.end = begin + share < range.end ? begin + share : range.end;
  range.begin = begin < range.end ? begin : range.end;
  return range;
}

// Where a block of query rows lies, from a linear block index.
struct BlockPlace {
  int q_block, head, batch;
};

// Blocks with the most keys come first (a causal block's work grows with its rows), a "section" of
// heads at a time whose K and V stay in the L2 cache.
FA_DEVICE BlockPlace place_block(const Words& w, uint32_t index, int q_blocks) {
  constexpr uint32_t kCacheKilobytes = 32768;
  const uint32_t heads = w.heads();
  const uint32_t group = heads / w.kv_heads();
  const uint32_t head_kilobytes = (w.dk() + w.dv()) * (uint32_t(w.kv_len()) / 64 + 1) / 8 + 1;
  const uint32_t fitting = kCacheKilobytes / head_kilobytes;
  const uint32_t section_heads =
      fitting == 0 ? group : fitting * group < heads ? fitting * group : heads;
  const uint32_t batch = index / (q_blocks * heads);
  uint32_t rest = index - batch * (q_blocks * heads);
  const uint32_t section = rest / (section_heads * q_blocks);
  rest -= section * (section_heads * q_blocks);
  const uint32_t first_head = section * section_heads;
  const uint32_t width =
      heads - first_head < section_heads ? heads - first_head : section_heads;
  const uint32_t row_of_blocks = rest / width;
  return {int(q_blocks - 1 - row_of_blocks), int(first_head + rest - row_of_blocks * width),
          int(batch)};
}

}  // namespace fa
