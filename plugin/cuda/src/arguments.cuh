// The dispatch's bindings and constants, decoded once; see plugin/abi/flashattn_abi.h.
#pragma once

#include <primitives.cuh>

#include "flashattn_abi.h"

// A kernel's parameters as the launcher passes them: one pointer a binding, then one 32-bit value
// a constant.
#define FA_EIGHT_WORDS(a)                                                                        \
  uint32_t w##a##0, uint32_t w##a##1, uint32_t w##a##2, uint32_t w##a##3, uint32_t w##a##4,      \
      uint32_t w##a##5, uint32_t w##a##6, uint32_t w##a##7
#define FA_WORD_PARAMETERS \
  FA_EIGHT_WORDS(0), FA_EIGHT_WORDS(1), FA_EIGHT_WORDS(2), FA_EIGHT_WORDS(3)
#define FA_EIGHT_VALUES(a) w##a##0, w##a##1, w##a##2, w##a##3, w##a##4, w##a##5, w##a##6, w##a##7
#define FA_WORD_VALUES \
  { FA_EIGHT_VALUES(0), FA_EIGHT_VALUES(1), FA_EIGHT_VALUES(2), FA_EIGHT_VALUES(3) }

namespace fa {

struct Words {
  uint32_t value[FA_WORD_COUNT];
  FA_DEVICE uint32_t operator[](int i) const { return value[i]; }
  FA_DEVICE bool flag(uint32_t bit) const { return (value[FA_WORD_FLAGS] & bit) != 0; }
  FA_DEVICE float number(int i) const { return bits_to_float(value[i]); }
  FA_DEVICE int q_len() const { return value[FA_WORD_Q_LEN]; }
  FA_DEVICE int kv_len() const { return value[FA_WORD_KV_LEN]; }
  FA_DEVICE int heads() const { return value[FA_WORD_HEADS] & 0xffff; }
  FA_DEVICE int kv_heads() const { return value[FA_WORD_HEADS] >> 16; }
  FA_DEVICE int dk() const { return value[FA_WORD_HEAD_DIMS] & 0xffff; }
  FA_DEVICE int dv() const { return value[FA_WORD_HEAD_DIMS] >> 16; }
};

// Elements in 16 bytes.
template <class E>
constexpr int kChunk = 16 / int(sizeof(E));

// The rows of one head of Q, K, V or O: element (row, column) at  row*row_stride +
// column*column_stride.  `vector` says that 16-byte accesses at multiples of kChunk columns are
// aligned, and that a row ends at such a multiple.
template <class E>
struct HeadView {
  E* base;
  int64_t row_stride;
  int64_t column_stride;
  int columns;
  bool vector;

  FA_DEVICE E* at(int64_t row, int column) const {
    return base + row * row_stride + column * column_stride;
  }
};

template <class E, class P>
FA_DEVICE HeadView<E> head_view(P* pointer, uint32_t offset, uint32_t stride_b, uint32_t stride_h,
                                uint32_t stride_x, bool transposed, int columns, int batch,
                                int head) {
  E* base = static_cast<E*>(pointer) + offset + int64_t(batch) * stride_b + int64_t(head) * stride_h;
  const bool vector = !transposed && columns % kChunk<E> == 0 && stride_x % kChunk<E> == 0 &&
                      reinterpret_cast<uintptr_t>(base) % 16 == 0;
  return {base, transposed ? 1 : int64_t(stride_x), transposed ? int64_t(stride_x) : 1, columns,
          vector};
}

template <class E>
FA_DEVICE HeadView<const E> q_view(const Words& w, const void* q, int batch, int head) {
  return head_view<const E>(q, w[FA_WORD_Q_OFFSET], w[FA_WORD_Q_STRIDE_B], w[FA_WORD_Q_STRIDE_H],
                            w[FA_WORD_Q_STRIDE_X], w.flag(FA_FLAG_Q_TRANSPOSED), w.dk(), batch,
                            head);
}
template <class E>
FA_DEVICE HeadView<const E> k_view(const Words& w, const void* k, int batch, int kv_head) {
  return head_view<const E>(k, w[FA_WORD_K_OFFSET], w[FA_WORD_K_STRIDE_B], w[FA_WORD_K_STRIDE_H],
                            w[FA_WORD_K_STRIDE_X], w.flag(FA_FLAG_K_TRANSPOSED), w.dk(), batch,
                            kv_head);
}
template <class E>
FA_DEVICE HeadView<const E> v_view(const Words& w, const void* v, int batch, int kv_head) {
  return head_view<const E>(v, w[FA_WORD_V_OFFSET], w[FA_WORD_V_STRIDE_B], w[FA_WORD_V_STRIDE_H],
                            w[FA_WORD_V_STRIDE_X], w.flag(FA_FLAG_V_TRANSPOSED), w.dv(), batch,
                            kv_head);
}
template <class E>
FA_DEVICE HeadView<E> o_view(const Words& w, void* o, int batch, int head) {
  return head_view<E>(o, 0, w[FA_WORD_O_STRIDE_B], w[FA_WORD_O_STRIDE_H], w[FA_WORD_O_STRIDE_X],
                      w.flag(FA_FLAG_O_TRANSPOSED), w.dv(), batch, head);
}

}  // namespace fa
