// The dispatch ABI: what every kernel of every back end is handed.
//
// This file is the only place where bindings and constants are numbered. C, C++ and CUDA include
// it, the shaders include it through their preprocessor, and iree_flashattn.abi parses it, so it
// holds object-like macros with integer values and comments, and nothing else.
//
// Vulkan guarantees 128 bytes of push constants, hence exactly 32 words.
#ifndef FLASHATTN_ABI_H_
#define FLASHATTN_ABI_H_

// ---- Bindings of a forward kernel (role "forward") ---------------------------------------------
// Operands come before results, as flow.dispatch orders them. An operand that the site does not
// have is bound to Q and never read (its flag is off). LSE is written in place: its buffer is
// passed as an operand, so that a kernel has the same bindings whether the site wants it or not.
#define FA_BINDING_Q 0
#define FA_BINDING_K 1
#define FA_BINDING_V 2
#define FA_BINDING_MASK 3   // boolean, one byte an element
#define FA_BINDING_BIAS 4   // additive, f32 (FA_FLAG_BIAS_F32) or the element type of Q
#define FA_BINDING_SINKS 5  // f32[q_heads]
// With FA_FLAG_LSE, in kernels with the feature "lse": f32, dense [batch, q_heads, q_len], the
// natural logarithm of the sum of exp(score) over the row's keys, without the sink.
#define FA_BINDING_LSE 6
#define FA_BINDING_O 7
// Only in kernels with the feature "weights": P, dense [batch, q_heads, q_len, kv_len].
#define FA_BINDING_WEIGHTS 8

// ---- Bindings of a split forward kernel (role "partial") and its merge (role "combine") --------
// The partial kernel has the operands of a forward kernel but for LSE; its results are
//   PARTIAL_O  f32[splits, batch, q_heads, q_len, dv]   the unnormalised output of one key range,
//   PARTIAL_ML f32[splits, batch, q_heads, q_len, 2]    (row max in log2 units, row sum).
#define FA_BINDING_PARTIAL_O 6
#define FA_BINDING_PARTIAL_ML 7
// The combine kernel reads both, applies the sinks and writes O (and LSE, as a forward kernel
// does; where the site does not want it, COMBINE_LSE is bound to COMBINE_O).
#define FA_BINDING_COMBINE_O 0
#define FA_BINDING_COMBINE_ML 1
#define FA_BINDING_COMBINE_SINKS 2
#define FA_BINDING_COMBINE_LSE 3
#define FA_BINDING_COMBINE_OUT 4

// ---- Constants: 32-bit words, in order; f32 values by their bits -------------------------------
#define FA_WORD_FLAGS 0
#define FA_WORD_Q_LEN 1
#define FA_WORD_KV_LEN 2
#define FA_WORD_HEADS 3      // q heads | kv heads << 16; q head h reads kv head h / (q / kv)
#define FA_WORD_HEAD_DIMS 4  // dk | dv << 16
#define FA_WORD_SCALE 5      // f32; multiplies Q·K
#define FA_WORD_SOFTCAP 6    // f32 c; scores become c·tanh(s / c) when FA_FLAG_SOFTCAP is set
#define FA_WORD_FILL 7       // f32; the score of a masked element, natural units, often -inf
#define FA_WORD_BAND_LO 8    // i32; with FA_FLAG_BAND_LO an element needs key - row >= lo
#define FA_WORD_BAND_HI 9    // i32; with FA_FLAG_BAND_HI an element needs key - row <= hi
// Element offsets and strides, unsigned; products are formed in 64 bits. Operand X has its element
// (b, h, row, column) at  offset + b*X_B + h*X_H + row*X_X + column,  or, with its TRANSPOSED
// flag, at  offset + b*X_B + h*X_H + row + column*X_X.  A stride of 0 broadcasts. Batch comes
// from the grid. "row" is a query for Q and O, a key for K and V; "column" runs over the head dim.
#define FA_WORD_Q_OFFSET 10
#define FA_WORD_K_OFFSET 11
#define FA_WORD_V_OFFSET 12
#define FA_WORD_Q_STRIDE_B 13
#define FA_WORD_Q_STRIDE_H 14
#define FA_WORD_Q_STRIDE_X 15
#define FA_WORD_K_STRIDE_B 16
#define FA_WORD_K_STRIDE_H 17
#define FA_WORD_K_STRIDE_X 18
#define FA_WORD_V_STRIDE_B 19
#define FA_WORD_V_STRIDE_H 20
#define FA_WORD_V_STRIDE_X 21
#define FA_WORD_O_STRIDE_B 22
#define FA_WORD_O_STRIDE_H 23
#define FA_WORD_O_STRIDE_X 24
// MASK and BIAS element (b, h, row, key) at  b*B + h*H + row*X + key  (key*0 with KEY_BROADCAST);
// h is the q head.
#define FA_WORD_MASK_STRIDE_B 25
#define FA_WORD_MASK_STRIDE_H 26
#define FA_WORD_MASK_STRIDE_X 27
#define FA_WORD_BIAS_STRIDE_B 28
#define FA_WORD_BIAS_STRIDE_H 29
#define FA_WORD_BIAS_STRIDE_X 30
#define FA_WORD_SPLITS 31  // number of key ranges (roles "partial" and "combine"), else 1
#define FA_WORD_COUNT 32

// ---- Flags: bits of FA_WORD_FLAGS ---------------------------------------------------------------
// The score of (row, key) is, in this order:
//   s = scale * (q · k);  SOFTCAP: s = c·tanh(s / c);  BIAS: s += bias;
//   an element that MASK or the band excludes: s = fill
// (with BIAS_AFTER_FILL the bias is added after the fill). Then softmax over the keys, with the
// sink of the head as one more score that has no value, then P · V.
#define FA_FLAG_MASK 0x1
#define FA_FLAG_MASK_DROP 0x2  // a nonzero byte excludes; without it a zero byte excludes
#define FA_FLAG_BIAS 0x4
#define FA_FLAG_BIAS_F32 0x8  // bias elements are f32 whatever the type of Q
#define FA_FLAG_BIAS_AFTER_FILL 0x10
#define FA_FLAG_BAND_LO 0x20
#define FA_FLAG_BAND_HI 0x40
#define FA_FLAG_SOFTCAP 0x80
#define FA_FLAG_SINKS 0x100
// A row all of whose scores are -inf: 0 without this flag (PyTorch's SDPA), NaN with it (a plain
// softmax). A row with no keys at all (kv_len 0) is 0 either way.
#define FA_FLAG_EMPTY_ROW_NAN 0x200
#define FA_FLAG_Q_TRANSPOSED 0x400
#define FA_FLAG_K_TRANSPOSED 0x800
#define FA_FLAG_V_TRANSPOSED 0x1000
#define FA_FLAG_O_TRANSPOSED 0x2000
#define FA_FLAG_MASK_KEY_BROADCAST 0x4000
#define FA_FLAG_BIAS_KEY_BROADCAST 0x8000
#define FA_FLAG_WEIGHTS 0x10000
#define FA_FLAG_LSE 0x20000
// The LSE of a row all of whose scores are -inf: -inf without this flag (logsumexp), NaN with it
// (max + log(sum(exp(s - max)))). It is -inf either way for a row with no keys at all.
#define FA_FLAG_LSE_NAN 0x40000

#endif  // FLASHATTN_ABI_H_
