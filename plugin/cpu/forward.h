// Attention of one block of rows over a range of keys: FlashAttention-2 (algorithm 1) with packed
// panels. What happens to one group of rows is in group.h, or with AMX in group_tiles.h.
#pragma once
#if defined(FA_TILES)
#include "group_tiles.h"
#else
#include "group.h"
#endif

namespace {

// The part of a key block that some row of the group sees, and how many of its first keys every row
// sees, in whole vectors unless these are all.
struct Segment {
  int64_t lo, hi, shared;
};

FA_INLINE Segment visible(const Problem &p, const Block &b, Group g, int64_t begin, int64_t keys) {
  int64_t top = (b.first + g.first) / p.group;
  int64_t bottom = (b.first + g.first + g.count - 1) / p.group;
  int64_t lo = larger(p.first_key(top) - begin, 0) / kPanel * kPanel;
  int64_t hi = smaller(p.end_key(bottom) - begin, keys);
  // What is left out may have to be visited with the fill value later, from a panel's start on.
  if (p.fill > -kInf) hi = smaller(round_up(larger(hi, 0), kPanel), keys);
  const int64_t end = p.end_key(top) - begin;
  int64_t shared = 0;
  if (p.first_key(bottom) - begin <= lo) shared = end >= hi ? hi - lo : larger(end - lo, 0) / W * W;
  return {lo, hi, shared};
}

// Whether elements that the band excludes cannot change any row of the group: their weight,
// exp(fill - max), is 0 in f32. Never so where a bias comes on top of the fill.
FA_INLINE bool fill_vanishes(const Problem &p, const Block &b, Group g) {
  if (p.fill == -kInf) return true;
  if (p.has(FA_FLAG_BIAS) && p.has(FA_FLAG_BIAS_AFTER_FILL)) return false;
  for (int64_t i = 0; i < g.count; ++i)
    if (!(b.max[g.first + i] - p.fill > 104.0f)) return false;
  return true;
}

// The keys that the band leaves visible, of [key_begin, key_end).
inline void attend_visible(const Problem &p, const Block &b, int64_t key_begin, int64_t key_end,
                           bool fresh) {
  int64_t from = larger(p.first_key(b.first / p.group), key_begin);
  int64_t to = smaller(p.end_key((b.first + b.count - 1) / p.group), key_end);
  from = key_begin + (from - key_begin) / b.kv_tile * b.kv_tile;
  // With a finite fill a group visits whole panels, so these have to be packed.
  if (p.fill > -kInf) to = smaller(key_begin + round_up(larger(to - key_begin, 0), kPanel), key_end);
  const bool plain = p.plain_scores();
  for (int64_t begin = from; begin < to; begin += b.kv_tile) {
    int64_t keys = smaller(b.kv_tile, to - begin);
    pack_keys(p, b, begin, keys);
    for (int64_t g = 0; g < b.groups; ++g) {
      Group group = group_of(b, g);
      if (!plain && !p.only_adds_f32()) {
        const bool last = g + 1 == b.groups;
        const int64_t ahead = last ? begin + b.kv_tile : begin;
        prefetch_group(p, b, group_of(b, last ? 0 : g + 1), ahead, smaller(b.kv_tile, to - ahead));
      }
      Segment seg = visible(p, b, group, begin, keys);
      if (seg.lo >= seg.hi) continue;
      group_step(p, b, group, begin, seg.lo, seg.hi, plain ? seg.shared : 0, fresh);
    }
    finish_steps(p, b);
    fresh = false;
  }
}

// The keys that the band excludes, for the groups in which a finite fill leaves them some weight
// (rows with nothing visible, above all).
inline void attend_filled(const Problem &p, const Block &b, int64_t key_begin, int64_t key_end) {
  bool any = false;
  for (int64_t g = 0; g < b.groups; ++g) any |= !fill_vanishes(p, b, group_of(b, g));
  if (!any) return;
  for (int64_t begin = key_begin; begin < key_end; begin += b.kv_tile) {
    int64_t keys = smaller(b.kv_tile, key_end - begin);
    bool packed = false;
    for (int64_t g = 0; g < b.groups; ++g) {
      Group group = group_of(b, g);
      if (fill_vanishes(p, b, group)) continue;
      Segment seg = visible(p, b, group, begin, keys);
      if (seg.lo == 0 && seg.hi == keys) continue;
      if (seg.lo >= seg.hi) seg = {keys, keys, 0};
      if (!packed) {
        pack_keys(p, b, begin, keys);
        packed = true;
      }
      if (seg.lo > 0) group_step(p, b, group, begin, 0, seg.lo, 0, false);
      finish_steps(p, b);  // the same rows again
      if (seg.hi < keys) group_step(p, b, group, begin, seg.hi, keys, 0, false);
    }
    finish_steps(p, b);
  }
}

// Attention of the block's rows over [key_begin, key_end): leaves o (not normalised), max and sum.
inline void attend(const Problem &p, const Block &b, int64_t key_begin, int64_t key_end) {
  // Without a band every group sees the first keys.
  const bool fresh = overwrites(b) && !p.banded() && key_begin < key_end;
  begin_rows(p, b, fresh);
  attend_visible(p, b, key_begin, key_end, fresh);
  if (p.banded()) attend_filled(p, b, key_begin, key_end);
  end_rows(p, b);
}

// Runs `body` over the workgroup's rows in blocks that fit the scratch memory.
template <class Body>
FA_INLINE void for_row_blocks(const Problem &p, uint32_t x, Block b, Body body) {
  const int64_t rows = p.q_len * p.group, tiles = (rows + kQTile - 1) / kQTile;
  if (x >= tiles) return;
  // Under a causal band the last rows have most work: they go first, so that none is left alone.
  const int64_t tile = p.has(FA_FLAG_BAND_HI) ? tiles - 1 - x : x;
  const int64_t first = tile * kQTile, end = smaller(first + kQTile, rows);
  const int64_t parts = (end - first + b.count - 1) / b.count;
  const int64_t most = (end - first + parts - 1) / parts;
  for (b.first = first; b.first < end; b.first += most) {
    b.count = smaller(most, end - b.first);
    arrange(p, b);
    body(b);
  }
}

}  // namespace
