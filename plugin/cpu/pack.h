// Packing: operands of any layout and type become f32 panels.
#pragma once
#include "problem.h"

namespace {

// panels[p][r][kPanel] = source(r, p * kPanel + lane), zero beyond `columns`; source rows are
// `step` apart and contiguous along the columns (V as stored; K when transposed).
FA_INLINE void pack_rows(const Element *source, int64_t step, int64_t rows, int64_t columns,
                         int64_t panel_rows, float *panels) {
  for (int64_t r = 0; r < rows; ++r) {
    const Element *x = source + r * step;
    float *out = panels + r * kPanel;
    for (int64_t c = 0; c < columns; c += kPanel) {
#pragma unroll
      for (int j = 0; j < kPanel; j += W) {
        int64_t left = columns - c - j;
        store(out + j, left >= W ? load(x + c + j) : left > 0 ? load_n(x + c + j, left) : Vec{});
      }
      out += panel_rows * kPanel;
    }
  }
}

// The same panels from a source that is contiguous along r: its columns are `step` apart
// (K as stored; V when transposed).
FA_INLINE void pack_columns(const Element *source, int64_t step, int64_t rows, int64_t columns,
                            int64_t panel_rows, float *panels) {
  for (int64_t c = 0; c < columns; c += kPanel) {
    float *panel = panels + c * panel_rows;
#pragma unroll 1
    for (int j = 0; j < kPanel; j += W) {
      int64_t lanes = columns - c - j;
#pragma unroll 1
      for (int64_t r = 0; r < rows; r += W) {
        int64_t n = rows - r < W ? rows - r : W;
        const Element *x = source + (c + j) * step + r;
        Vec block[W];
        if (lanes >= W && n == W) {
#pragma unroll
          for (int i = 0; i < W; ++i) block[i] = load(x + i * step);
        } else {
          for (int i = 0; i < W; ++i) block[i] = i < lanes ? load_n(x + i * step, n) : Vec{};
        }
        transpose(block);
        float *out = panel + r * kPanel + j;
        if (n == W) {
#pragma unroll
          for (int i = 0; i < W; ++i) store(out + i * kPanel, block[i]);
        } else {
          for (int i = 0; i < n; ++i) store(out + i * kPanel, block[i]);
        }
      }
    }
  }
}

// Keys [begin, begin + keys) of one head, as [panel of keys][dk][kPanel].
inline __attribute__((noinline)) void pack_k(const Problem &p, const Element *k, int64_t begin,
                                             int64_t keys, float *panels) {
  if (p.has(FA_FLAG_K_TRANSPOSED)) {
    pack_rows(k + begin, p.ks.row, p.dk, keys, p.dk, panels);
  } else {
    pack_columns(k + begin * p.ks.row, p.ks.row, p.dk, keys, p.dk, panels);
  }
}

// Values of the same keys, as [panel of dv][kv_rows][kPanel].
inline __attribute__((noinline)) void pack_v(const Problem &p, const Element *v, int64_t begin,
                                             int64_t keys, int64_t kv_rows, float *panels) {
  if (p.has(FA_FLAG_V_TRANSPOSED)) {
    pack_columns(v + begin, p.vs.row, keys, p.dv, kv_rows, panels);
  } else {
    pack_rows(v + begin * p.vs.row, p.vs.row, keys, p.dv, kv_rows, panels);
  }
}

// `count` rows of Q, scaled, as [dk][count]. Row i of a packed block is query i / group of head
// i % group: heads that share K and V stand side by side (FlashAttention-3's PackGQA).
// Whole vectors are stored, so up to W floats after the group are overwritten; groups are packed
// in ascending order.
inline __attribute__((noinline)) void pack_q(const Problem &p, const Element *q, int64_t first,
                                             int64_t count, float *out) {
  if (p.has(FA_FLAG_Q_TRANSPOSED)) {
    for (int64_t i = 0; i < count; ++i) {
      const Element *x = q + (first + i) / p.group + (first + i) % p.group * p.qs.head;
      for (int64_t c = 0; c < p.dk; ++c) out[c * count + i] = widen(x[c * p.qs.row]) * p.scale;
    }
    return;
  }
  const Element *rows[W];
  for (int64_t i = 0; i < W; ++i) {
    int64_t row = first + (i < count ? i : count - 1);
    rows[i] = q + row / p.group * p.qs.row + row % p.group * p.qs.head;
  }
  for (int64_t c = 0; c < p.dk; c += W) {
    int64_t n = p.dk - c < W ? p.dk - c : W;
    Vec block[W];
    if (n == W) {
#pragma unroll
      for (int i = 0; i < W; ++i) block[i] = load(rows[i] + c) * splat(p.scale);
    } else {
      for (int i = 0; i < W; ++i) block[i] = load_n(rows[i] + c, n) * splat(p.scale);
    }
    transpose(block);
    if (n == W) {
#pragma unroll
      for (int i = 0; i < W; ++i) store(out + (c + i) * count, block[i]);
    } else {
      for (int i = 0; i < n; ++i) store(out + (c + i) * count, block[i]);
    }
  }
}

}  // namespace
