// Scores: from the products Q K to what softmax sees (scale, softcap, bias, masks).
#pragma once

#include "softmax.cuh"
#include "tile_range.cuh"

namespace fa {

// The two rows of a lane: query index and q head of each (they differ in heads when the rows of a
// GQA group are packed together).
struct LaneRows {
  int query[2];
  int head[2];
};

// Excludes elements outside the band or past the last key. `key` is the lane's first key.
template <int kCount>
FA_DEVICE void mask_band(float (&s)[kCount], const Band& band, const LaneRows& rows, int key,
                         int kv_len) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int low = add_saturating(rows.query[r], band.lo) - key;
    const int high = clamp(add_saturating(rows.query[r], band.hi), -1, kv_len - 1) - key;
#pragma unroll
    for (int i = 2 * r; i < kCount; i += 4) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int column = i / 4 * 8 + j;
        if (column < low || column > high) s[i + j] = -kInf;
      }
    }
  }
}

// How plain scores reach log2 units: softmax multiplies by `softmax`, inside its multiply-add. That
// needs a positive factor; any other scale is applied beforehand (`before`).
struct ScoreScale {
  float softmax, before;
};

FA_DEVICE ScoreScale score_scale(const Words& w, bool general) {
  if (general) return {1.0f, 1.0f};
  const float scale = w.number(FA_WORD_SCALE) * kLog2e;
  return scale > 0.0f ? ScoreScale{scale, 1.0f} : ScoreScale{1.0f, scale};
}

template <int kCount>
FA_DEVICE void scale_scores(float (&s)[kCount], const ScoreScale& scale) {
  if (scale.before == 1.0f) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i) s[i] *= scale.before;
}

// Everything that plain attention lacks: softcap, bias, masks, a finite fill. Leaves scores in log2
// units, so softmax takes them with scale 1. Each feature is one pass over the lane's scores under
// one branch that the whole block takes alike.
template <class E>
struct GeneralScore {
  const Words& w;
  const uint8_t* mask;
  const void* bias;
  int batch;

  // `at(i, j)`: i is the index of a pair of scores, j says which of the pair.
  template <int kCount, class F>
  FA_DEVICE static void each(float (&s)[kCount], F at) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      s[i] = at(s[i], (i >> 1) & 1, i / 4 * 8);
      s[i + 1] = at(s[i + 1], (i >> 1) & 1, i / 4 * 8 + 1);
    }
  }

  // Offset of the lane's first key in both rows; rows past q_len read the last row's.
  FA_DEVICE void row_offsets(int64_t (&at)[2], const LaneRows& rows, int stride_b, int stride_h,
                             int stride_x) const {
#pragma unroll
    for (int r = 0; r < 2; ++r)
      at[r] = int64_t(batch) * w[stride_b] + int64_t(rows.head[r]) * w[stride_h] +
              int64_t(rows.query[r] < w.q_len() ? rows.query[r] : w.q_len() - 1) * w[stride_x];
  }

  // The last of a lane's columns, counted from its first.
  template <int kCount>
  static constexpr int kLastColumn = (kCount / 4 - 1) * 8 + 1;

  FA_DEVICE static void add_pair(float* s, const F32* at) {
    const uint64_t both = *reinterpret_cast<const uint64_t*>(at);
    s[0] += bits_to_float(uint32_t(both));
    s[1] += bits_to_float(uint32_t(both >> 32));
  }
  template <class H>
  FA_DEVICE static void add_pair(float* s, const H* at) {
    const uint32_t both = *reinterpret_cast<const uint32_t*>(at);
    s[0] += to_float(H{uint16_t(both)});
    s[1] += to_float(H{uint16_t(both >> 16)});
  }

  template <int kCount>
  FA_DEVICE void add_bias(float (&s)[kCount], const LaneRows& rows, int key) const {
    int64_t row[2];
    row_offsets(row, rows, FA_WORD_BIAS_STRIDE_B, FA_WORD_BIAS_STRIDE_H, FA_WORD_BIAS_STRIDE_X);
    const int last = w.kv_len() - 1 - key;
    const int64_t step = w.flag(FA_FLAG_BIAS_KEY_BROADCAST) ? 0 : 1;
    auto add = [&](const auto* values) {
      const decltype(values) base[2] = {values + row[0] + key * step, values + row[1] + key * step};
      const uintptr_t either =
          reinterpret_cast<uintptr_t>(base[0]) | reinterpret_cast<uintptr_t>(base[1]);
      if (step == 1 && either % (2 * sizeof(*values)) == 0 && kLastColumn<kCount> <= last) {
#pragma unroll
        for (int i = 0; i < kCount; i += 2)
          add_pair(s + i, base[i >> 1 & 1] + i / 4 * 8);
        return;
      }
      each(s, [&](float x, int r, int column) {
        return x + to_float(base[r][(column < last ? column : last) * step]);
      });
    };
    if (w.flag(FA_FLAG_BIAS_F32)) {
      add(static_cast<const F32*>(bias));
    } else {
      add(static_cast<const E*>(bias));
    }
  }

  template <int kCount>
  FA_DEVICE void fill_masked(float (&s)[kCount], const LaneRows& rows, int key, float fill) const {
    int64_t row[2];
    row_offsets(row, rows, FA_WORD_MASK_STRIDE_B, FA_WORD_MASK_STRIDE_H, FA_WORD_MASK_STRIDE_X);
    const int last = w.kv_len() - 1 - key;
    const int64_t step = w.flag(FA_FLAG_MASK_KEY_BROADCAST) ? 0 : 1;
    const uint8_t* base[2] = {mask + row[0] + key * step, mask + row[1] + key * step};
    const bool drop = w.flag(FA_FLAG_MASK_DROP);
    auto fill_pair = [&](float* pair, uint32_t bytes) {
      pair[0] = ((bytes & 0xff) != 0) == drop ? fill : pair[0];
      pair[1] = (bytes >> 8 != 0) == drop ? fill : pair[1];
    };
    const uintptr_t either =
        reinterpret_cast<uintptr_t>(base[0]) | reinterpret_cast<uintptr_t>(base[1]);
    if (step == 1 && either % 2 == 0 && kLastColumn<kCount> <= last) {
      auto bytes_at = [](const uint8_t* at) { return *reinterpret_cast<const uint16_t*>(at); };
      if (base[0] == base[1]) {  // a padding mask: both rows of the lane share their bytes
#pragma unroll
        for (int i = 0; i < kCount; i += 4) {
          const uint32_t bytes = bytes_at(base[0] + 2 * i);
          fill_pair(s + i, bytes);
          fill_pair(s + i + 2, bytes);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kCount; i += 2)
          fill_pair(s + i, bytes_at(base[i >> 1 & 1] + i / 4 * 8));
      }
      return;
    }
    each(s, [&](float x, int r, int column) {
      const bool set = base[r][(column < last ? column : last) * step] != 0;
      return set == drop ? fill : x;
    });
  }

  // `key` is the lane's first key.
  template <int kCount>
  FA_DEVICE void apply(float (&s)[kCount], const Band& band, const LaneRows& rows, int key) const {
    if (key >= w.kv_len()) {  // nothing to read for this lane
      each(s, [&](float, int, int) { return -kInf; });
      return;
    }
    const float fill = w.number(FA_WORD_FILL);
    // With masks alone scores are in log2 units from the start.
    const bool masks_alone = !w.flag(FA_FLAG_SOFTCAP | FA_FLAG_BIAS) && fill == -kInf;
    const float scale = w.number(FA_WORD_SCALE) * (masks_alone ? kLog2e : 1.0f);
    each(s, [&](float x, int, int) { return x * scale; });
    if (w.flag(FA_FLAG_SOFTCAP)) {
      const float cap = w.number(FA_WORD_SOFTCAP), inverse = 1.0f / cap;
      each(s, [&](float x, int, int) { return cap * tanh_fast(x * inverse); });
    }
    const bool after = w.flag(FA_FLAG_BIAS_AFTER_FILL);
    if (w.flag(FA_FLAG_BIAS) && !after) add_bias(s, rows, key);
    if (w.flag(FA_FLAG_BAND_LO | FA_FLAG_BAND_HI)) {
      int low[2], high[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        low[r] = add_saturating(rows.query[r], band.lo) - key;
        high[r] = add_saturating(rows.query[r], band.hi) - key;
      }
      each(s, [&](float x, int r, int column) {
        return column < low[r] || column > high[r] ? fill : x;
      });
    }
    if (w.flag(FA_FLAG_MASK)) fill_masked(s, rows, key, fill);
    if (w.flag(FA_FLAG_BIAS) && after) add_bias(s, rows, key);
    const int end = w.kv_len() - key;
    if (masks_alone) {
      if (end <= kLastColumn<kCount>)
        each(s, [&](float x, int, int column) { return column < end ? x : -kInf; });
      return;
    }
    // A finite score stays finite, and below another one: the lowest f32 is a common fill, and a row
    // that has nothing else weighs all its keys alike. Beyond kFar, where log2 units would overflow,
    // scores move closer together, to no less than the lowest f32.
    each(s, [&](float x, int, int column) {
      constexpr float kFar = -2e38f, kSlope = 0.36f, kOffset = kFar * (kLog2e - kSlope);
      const float finite = x < kFar ? x * kSlope + kOffset : x * kLog2e;
      return column < end ? finite : -kInf;
    });
  }
};

// What a row's sum becomes with the sink of its head: one more score that has no value.
FA_DEVICE void add_sink(float& scaled_max, float& sum, float& factor, float sink) {
  const float score = sink * kLog2e;
  const float m = maximum(scaled_max, score);
  const float base = reference(m);
  factor = exp2_fast(scaled_max - base);
  sum = sum * factor + exp2_fast(score - base);
  scaled_max = m;
}

}  // namespace fa
