// A block of few rows (decode), all of them one group: K and V are read in place.
#pragma once
#include "block.h"
#include "direct.h"

namespace {

// Whether a block is read in place: it has few rows, and its operands lie as direct.h reads them.
FA_INLINE bool reads_in_place(const Problem &p, int64_t rows) {
  return rows <= kDirectRows && !p.has(FA_FLAG_Q_TRANSPOSED | FA_FLAG_K_TRANSPOSED |
                                       FA_FLAG_V_TRANSPOSED | FA_FLAG_WEIGHTS);
}

FA_INLINE void load_direct_rows(const Problem &p, const Block &b) {
  const Element *q = q_of(p, b);
  for (int64_t i = 0; i < b.count; ++i) {
    int64_t row = b.first + i;
    load_row(p, q + row / p.group * p.qs.row + row % p.group * p.qs.head,
             b.q + i * round_up(p.dk, W));
  }
}

template <int M>
inline __attribute__((noinline)) void direct_step(const Problem &p, const Block &b, Group g,
                                                  int64_t begin, int64_t lo, int64_t hi,
                                                  int64_t shared) {
  const int64_t keys = hi - lo, step = round_up(p.dk, W);
  const Element *k = k_of(p, b) + (begin + lo) * p.ks.row;
  for (int64_t j = 0; j < keys; j += W)
    direct_scores<M>(p, b.q + g.first * step, step, k + j * p.ks.row, keys - j, b.s + j);
  if (shared < keys)
    for (int i = 0; i < M; ++i)
      adjust_row(p, masks_of(p, b, g.first + i), (b.first + g.first + i) / p.group,
                 begin + lo + shared, keys - shared, b.s + i * kKvTile + shared);
  float factor[W];
  weigh<M, (kKeyTerms<M> > 1)>(p, b, g, keys, factor);
  direct_values<M>(p, b.s, v_of(p, b) + (begin + lo) * p.vs.row, keys,
                   b.o + g.first * b.o_step, b.o_step, factor);
}

// Calls `f` with the group's row count as a compile-time constant.
template <int M, class F>
FA_INLINE void with_rows(int64_t count, F f) {
  if constexpr (M > 0) {
    if (count == M) return f(Constant<M>{});
    with_rows<M - 1>(count, f);
  }
}

}  // namespace
