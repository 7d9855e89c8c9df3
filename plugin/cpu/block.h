// A block of rows: the part of a problem that one workgroup works on at a time, with its buffers.
#pragma once
#include "score.h"
#include "softmax.h"

namespace {

struct Pending;  // group_tiles.h

// Rows of one workgroup, its running state and its buffers, all in scratch memory.
struct Block {
  int64_t batch, kv_head;
  int64_t first, count;  // packed rows: row i is query i / group of head i % group
  int64_t groups;        // of rows that go through the products together
  int64_t kv_tile, o_step;
  bool v_in_place;  // V is f32 and dense enough to be read where it lies
  bool q_in_place;  // so is Q, for few keys
  bool direct;  // few rows: K and V are read in place, and q holds rows of round_up(dk, W)
  float *q, *o, *sum, *max;  // Q as the products take it, [row][o_step], [row][W], [row]
  float *k, *v, *s;          // panels of one block of keys; scores of one group
  float *p;                  // with tiles: weights of a group
  int64_t step;              // with tiles: keys that a group takes at a time
  Pending *pending;          // what a group leaves for the next one to do
};

struct Group {
  int64_t first, count;  // rows, relative to the block
};

FA_INLINE const Element *q_of(const Problem &p, const Block &b) {
  return p.q + b.batch * p.qs.batch + b.kv_head * p.group * p.qs.head;
}
FA_INLINE const Element *k_of(const Problem &p, const Block &b) {
  return p.k + b.batch * p.ks.batch + b.kv_head * p.ks.head;
}
FA_INLINE const Element *v_of(const Problem &p, const Block &b) {
  return p.v + b.batch * p.vs.batch + b.kv_head * p.vs.head;
}

// The query head of the block's row i.
FA_INLINE int64_t head_of(const Problem &p, const Block &b, int64_t i) {
  return b.kv_head * p.group + (p.group == 1 ? 0 : (b.first + i) % p.group);
}

FA_INLINE RowMasks masks_of(const Problem &p, const Block &b, int64_t i) {
  return row_masks(p, b.batch, head_of(p, b, i), (b.first + i) / p.group);
}

inline __attribute__((noinline)) void prefetch_group(const Problem &p, const Block &b, Group g,
                                                     int64_t begin, int64_t keys) {
  for (int64_t i = 0; i < g.count; ++i)
    prefetch_masks(p, masks_of(p, b, g.first + i), begin, keys);
}

// Nothing seen yet: the running state of `rows` rows, without O where the first keys will write it.
FA_INLINE void clear_state(const Block &b, int64_t rows, bool fresh) {
  for (int64_t i = 0; i < rows; ++i) b.max[i] = -kInf;
  for (int64_t i = 0; i < rows; ++i) store(b.sum + i * W, Vec{});
  for (int64_t i = 0; !fresh && i < rows * b.o_step; i += W) store(b.o + i, Vec{});
}

// Scores of a group's M rows become weights; kWords: the words of pairs that P·V takes then.
template <int M, bool kWords>
FA_INLINE void weigh(const Problem &p, const Block &b, Group g, int64_t keys, float *factor) {
  float *max_of = b.max + g.first, *sum_of = b.sum + g.first * W;
  // The LSE shows the sum of the weights as it is; in O most of their error cancels.
  if (kWords && !p.has(FA_FLAG_LSE)) {
    softmax_step<M, kWords>(b.s, keys, max_of, sum_of, factor);
  } else {
    softmax_step<M>(b.s, keys, max_of, sum_of, factor);
  }
  if (kWords) narrow_weights<M>(b.s, keys);
}

// P of one row's keys [begin, begin + keys), from its scores and its final maximum.
FA_INLINE void write_weights_row(const Problem &p, const Block &b, int64_t i, const float *s,
                                 int64_t begin, int64_t keys, float factor, Element *weights) {
  const int64_t head = head_of(p, b, i), query = (b.first + i) / p.group;
  Element *out = weights + ((b.batch * p.heads + head) * p.q_len + query) * p.kv_len;
  const Vec m = splat(finite_max(b.max[i])), scale = splat(factor);
  for (int64_t j = 0; j < keys; j += W)
    store_n(out + begin + j, exp_nonpositive(load(s + j) - m) * scale, keys - j);
}

}  // namespace
