// The two matrix products on tiles, in blocks of 2 x 2: tiles 0 to 3 are C, 4 and 5 rows of A,
// 6 and 7 columns of B. Operands are packed (pack.h) and padded to whole tiles.
#pragma once
#include <amx.h>

#include "word.h"

namespace {

static_assert(kPanel == 2 * kTileColumns, "a row of a panel is a row of two tiles");
// Scores and P of a group: rows of f32, and in their place rows of bf16. Not a power of two, which
// would put all rows of a tile into a few sets of the cache.
constexpr int64_t kScoreStep = kKvTile + 16;

// C[16 R][16 N] += A · B for `depth` words along the summed dimension; rows of A are a_step words
// apart, panels of B whole. R and N are 1 or 2.
template <int R, int N>
FA_INLINE void tile_products(const float *a, int64_t a_step, const float *b, int64_t depth) {
  for (int64_t i = 0; i < depth; i += kTileColumns) {
    const float *row = b + i * kPanel;
    tile_load<6>(row, kPanel);
    if constexpr (N > 1) tile_load<7>(row + kTileColumns, kPanel);
    tile_load<4>(a + i, a_step);
    tile_dot<0, 4, 6>();
    if constexpr (N > 1) tile_dot<1, 4, 7>();
    if constexpr (R > 1) {
      tile_load<5>(a + kTileRows * a_step + i, a_step);
      tile_dot<2, 5, 6>();
      if constexpr (N > 1) tile_dot<3, 5, 7>();
    }
  }
}

template <int R, int N>
FA_INLINE void clear_tiles() {
  tile_zero<0>();
  if constexpr (N > 1) tile_zero<1>();
  if constexpr (R > 1) tile_zero<2>();
  if constexpr (R > 1 && N > 1) tile_zero<3>();
}
template <int R, int N>
FA_INLINE void load_tiles(const float *c, int64_t step) {
  tile_load<0>(c, step);
  if constexpr (N > 1) tile_load<1>(c + kTileColumns, step);
  if constexpr (R > 1) tile_load<2>(c + kTileRows * step, step);
  if constexpr (R > 1 && N > 1) tile_load<3>(c + kTileRows * step + kTileColumns, step);
}
template <int R, int N>
FA_INLINE void store_tiles(float *c, int64_t step) {
  tile_store<0>(c, step);
  if constexpr (N > 1) tile_store<1>(c + kTileColumns, step);
  if constexpr (R > 1) tile_store<2>(c + kTileRows * step, step);
  if constexpr (R > 1 && N > 1) tile_store<3>(c + kTileRows * step + kTileColumns, step);
}

// S[16 R][kPanel] = Q·Kᵀ, not scaled, for one panel of keys. Q's rows have `depth` words.
template <int R>
inline __attribute__((noinline)) void tile_scores(const float *q, const float *k_panel,
                                                  int64_t depth, float *s) {
  clear_tiles<R, 2>();
  tile_products<R, 2>(q, depth, k_panel, depth);
  store_tiles<R, 2>(s, kScoreStep);
}

// O[16 R][o_step] += P·V for `depth` words of keys; panels of V are panel_step words apart.
template <int R>
inline __attribute__((noinline)) void tile_values(const float *p, const float *v_panels,
                                                  int64_t panel_step, int64_t depth, float *o,
                                                  int64_t o_step) {
  auto columns = [&](auto n, int64_t c) {
    load_tiles<R, n.value>(o + c, o_step);
    tile_products<R, n.value>(p, kScoreStep, v_panels, depth);
    store_tiles<R, n.value>(o + c, o_step);
    v_panels += panel_step;
  };
  int64_t c = 0;
  for (; c + kPanel <= o_step; c += kPanel) columns(Constant<2>{}, c);
  if (c < o_step) columns(Constant<1>{}, c);
}

}  // namespace
