// From running sums to results: the epilogue of "forward", the results of "partial", "combine".
#pragma once
#include "forward.h"

namespace {

// A row all of whose scores are -inf.
FA_INLINE bool is_empty(float max, float sum) { return max == -kInf && sum == 0.0f; }

// What the outputs of W rows are multiplied by, given their maxima and sums; takes in the heads'
// sinks, scores without a value (-inf: none).
FA_INLINE Vec row_factors(const Problem &p, Vec row_max, Vec sum, Vec sink) {
  const Vec none = splat(-kInf), plain = splat(1.0f) / sum;
  const float empty = p.kv_len > 0 && p.has(FA_FLAG_EMPTY_ROW_NAN) ? __builtin_nanf("") : 0.0f;
  const Vec factor = ((row_max == none) & (sum == Vec{})) ? splat(empty) : plain;
  if (!p.has(FA_FLAG_SINKS)) return factor;
  const Vec top = max(sink, row_max), moved = exp_nonpositive(row_max - top);
  return sink > none ? moved / fma(sum, moved, exp_nonpositive(sink - top)) : factor;
}

FA_INLINE void write_lse(const Problem &p, float max, float sum, int64_t batch, int64_t head,
                         int64_t query, float *lse) {
  if (!p.has(FA_FLAG_LSE)) return;
  float value = max + log_positive(sum);
  if (is_empty(max, sum))
    value = p.kv_len > 0 && p.has(FA_FLAG_LSE_NAN) ? __builtin_nanf("") : -kInf;
  lse[(batch * p.heads + head) * p.q_len + query] = value;
}

FA_INLINE void write_row(const Problem &p, const float *o, float factor, int64_t batch, int64_t head,
                         int64_t query, Element *out) {
  out += batch * p.os.batch + head * p.os.head;
  if (p.has(FA_FLAG_O_TRANSPOSED)) {
    for (int64_t c = 0; c < p.dv; ++c) narrow(out + query + c * p.os.row, o[c] * factor);
    return;
  }
  out += query * p.os.row;
  for (int64_t c = 0; c < p.dv; c += W) store_n(out + c, load(o + c) * splat(factor), p.dv - c);
}

// `factors` may be the block's sums, of which those of W rows are read before their W factors are
// written.
inline void write_block(const Problem &p, const Block &b, float *factors, Element *out,
                        float *lse) {
  for (int64_t first = 0; first < b.count; first += W) {
    const int64_t n = smaller(W, b.count - first);
    float sum[W], sink[W];
    Vec parts[W];
    for (int i = 0; i < W; ++i) {
      parts[i] = i < n ? load(b.sum + (first + i) * W) : Vec{};
      sink[i] = p.has(FA_FLAG_SINKS) ? p.sinks[head_of(p, b, first + smaller(i, n - 1))] : -kInf;
    }
    store(sum, reduce_sums(parts));
    // The same factors normalise P, whose exponents are taken from the row's own maximum.
    store(factors + first, row_factors(p, load_n(b.max + first, n), load(sum), load(sink)));
    for (int64_t i = first; i < first + n; ++i) {
      const int64_t head = head_of(p, b, i), query = (b.first + i) / p.group;
      write_lse(p, b.max[i], sum[i - first], b.batch, head, query, lse);
      write_row(p, b.o + i * b.o_step, factors[i], b.batch, head, query, out);
    }
  }
}

inline void write_weights(const Problem &p, const Block &b, const float *factors, Element *weights) {
  const bool adjust = !p.plain_scores() || p.banded();
  for (int64_t begin = 0; begin < p.kv_len; begin += b.kv_tile) {
    int64_t keys = smaller(b.kv_tile, p.kv_len - begin);
    pack_key_panels(p, b, begin, keys);
    for (int64_t g = 0; g < b.groups; ++g)
      group_weights(p, b, group_of(b, g), begin, keys, adjust, factors, weights);
  }
}

inline void forward(const Problem &p, uint32_t x, uint32_t y, uint32_t z, void *o, void *weights,
                    float *lse, void *scratch) {
  Block b = carve(p, scratch);
  b.batch = z;
  b.kv_head = y;
  for_row_blocks(p, x, b, [&](const Block &block) {
    attend(p, block, 0, p.kv_len);
    write_block(p, block, block.sum, static_cast<Element *>(o), lse);
    if (p.has(FA_FLAG_WEIGHTS))
      write_weights(p, block, block.sum, static_cast<Element *>(weights));
  });
}

// Key range s of `splits`: equal parts, rounded up to panels. It depends on the shape alone, so a
// result does not depend on how many workers there are.
FA_INLINE int64_t split_begin(const Problem &p, int64_t s) {
  int64_t each = round_up((p.kv_len + p.splits - 1) / p.splits, kPanel);
  return smaller(s * each, p.kv_len);
}

// Results, in the order of the grid: o[batch][split][head][query][dv] and ml[…][2] =
// (maximum in natural units, sum).
inline void partial(const Problem &p, uint32_t x, uint32_t y, uint32_t z, float *o, float *ml,
                    void *scratch) {
  Block b = carve(p, scratch);
  b.batch = z / p.splits;
  b.kv_head = y;
  const int64_t split = z % p.splits;
  for_row_blocks(p, x, b, [&](const Block &block) {
    attend(p, block, split_begin(p, split), split_begin(p, split + 1));
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t head = head_of(p, block, i), query = (block.first + i) / p.group;
      const int64_t at = (int64_t(z) * p.heads + head) * p.q_len + query;
      for (int64_t c = 0; c < p.dv; c += W)
        store_n(o + at * p.dv + c, load(block.o + i * block.o_step + c), p.dv - c);
      ml[2 * at] = block.max[i];
      ml[2 * at + 1] = reduce_sum(load(block.sum + i * W));
    }
  });
}

inline void combine(const Problem &p, const float *o, const float *ml, uint32_t x, uint32_t y,
                    uint32_t z, void *out, float *lse, void *scratch) {
  const int64_t rows = p.q_len * p.group;
  const int64_t first = int64_t(x) * kQTile, end = smaller(first + kQTile, rows);
  float *sum_o = static_cast<float *>(scratch);  // dv floats, whole vectors
  for (int64_t row = first; row < end; ++row) {
    const int64_t head = y * p.group + row % p.group, query = row / p.group;
    auto at = [&](int64_t s) { return ((z * p.splits + s) * p.heads + head) * p.q_len + query; };
    float top = -kInf, sum = 0.0f;
    for (int64_t s = 0; s < p.splits; ++s) top = ml[2 * at(s)] > top ? ml[2 * at(s)] : top;
    for (int64_t c = 0; c < p.dv; c += W) store(sum_o + c, Vec{});
    for (int64_t s = 0; s < p.splits; ++s) {
      Vec moved = exp_nonpositive(splat(ml[2 * at(s)] - finite_max(top)));
      sum += ml[2 * at(s) + 1] * moved[0];
      for (int64_t c = 0; c < p.dv; c += W)
        store(sum_o + c, fma(load_n(o + at(s) * p.dv + c, p.dv - c), moved, load(sum_o + c)));
    }
    write_lse(p, top, sum, z, head, query, lse);
    const Vec sink = splat(p.has(FA_FLAG_SINKS) ? p.sinks[head] : -kInf);
    const Vec factor = row_factors(p, splat(top), splat(sum), sink);
    write_row(p, sum_o, factor[0], z, head, query, static_cast<Element *>(out));
  }
}

}  // namespace
