// Shuffles across the lanes of vectors: the sum of one, transpositions and reductions of W of them.
#pragma once
#include "simd.h"

namespace {

template <int... I>
struct Seq {};
template <int N, int... I>
struct MakeSeq : MakeSeq<N - 1, N - 1, I...> {};
template <int... I>
struct MakeSeq<0, I...> { using type = Seq<I...>; };
using AllLanes = MakeSeq<W>::type;

template <int Distance, int... I>
FA_INLINE Vec rotate(Vec x, Seq<I...>) {
  return __builtin_shufflevector(x, x, ((I + Distance) % W)...);
}
template <int Distance = W / 2>
FA_INLINE float reduce_sum(Vec x) {
  if constexpr (Distance == 0) {
    return x[0];
  } else {
    return reduce_sum<Distance / 2>(x + rotate<Distance>(x, AllLanes{}));
  }
}

// ---- W x W transposition, and reductions of W vectors at once -------------------------------------
// Steps within 128 bits come first: they are the cheapest shuffles everywhere, and need no index.
// Halves of 128 bits, with units of `Unit` floats from a and b in turn.
template <int Unit, bool High, int... I>
FA_INLINE Vec zip(Vec a, Vec b, Seq<I...>) {
  return __builtin_shufflevector(
      a, b, (I / 4 * 4 + (High ? 2 : 0) + I % 4 / (2 * Unit) * Unit + I % Unit + I / Unit % 2 * W)...);
}
// Every other 128 bits: of a, then of b.
template <bool Odd, int... I>
FA_INLINE Vec every_other(Vec a, Vec b, Seq<I...>) {
  return __builtin_shufflevector(a, b, (I / 4 * 8 + (Odd ? 4 : 0) + I % 4)...);
}

FA_INLINE void transpose(Vec (&x)[W]) {
#pragma unroll
  for (int i = 0; i < W; i += 4) {
    const Vec a = zip<1, false>(x[i], x[i + 1], AllLanes{});
    const Vec b = zip<1, true>(x[i], x[i + 1], AllLanes{});
    const Vec c = zip<1, false>(x[i + 2], x[i + 3], AllLanes{});
    const Vec d = zip<1, true>(x[i + 2], x[i + 3], AllLanes{});
    x[i] = zip<2, false>(a, c, AllLanes{});
    x[i + 1] = zip<2, true>(a, c, AllLanes{});
    x[i + 2] = zip<2, false>(b, d, AllLanes{});
    x[i + 3] = zip<2, true>(b, d, AllLanes{});
  }
  // x[4g + c] has column c of every 128 bits of rows 4g to 4g + 3: now these change places.
#pragma unroll
  for (int round = 4; round < W; round *= 2) {
    Vec y[W];
#pragma unroll
    for (int i = 0; i < W; i += 8)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        y[i / 2 + c] = every_other<false>(x[i + c], x[i + 4 + c], AllLanes{});
        y[W / 2 + i / 2 + c] = every_other<true>(x[i + c], x[i + 4 + c], AllLanes{});
      }
#pragma unroll
    for (int i = 0; i < W; ++i) x[i] = y[i];
  }
}

// Lane i of the result is the sum, or what else `f` makes of two, of x[i]: a transposition that
// reduces as it goes.
template <class F>
FA_INLINE Vec reduce_all(Vec (&x)[W], F f) {
#pragma unroll
  for (int i = 0; i < W; i += 4) {
    const Vec ab = f(zip<1, false>(x[i], x[i + 1], AllLanes{}),
                     zip<1, true>(x[i], x[i + 1], AllLanes{}));
    const Vec cd = f(zip<1, false>(x[i + 2], x[i + 3], AllLanes{}),
                     zip<1, true>(x[i + 2], x[i + 3], AllLanes{}));
    x[i / 4] = f(zip<2, false>(ab, cd, AllLanes{}), zip<2, true>(ab, cd, AllLanes{}));
  }
#pragma unroll
  for (int left = W / 4; left > 1; left /= 2)
#pragma unroll
    for (int i = 0; i < left; i += 2)
      x[i / 2] = f(every_other<false>(x[i], x[i + 1], AllLanes{}),
                   every_other<true>(x[i], x[i + 1], AllLanes{}));
  return x[0];
}
FA_INLINE Vec reduce_sums(Vec (&x)[W]) {
  return reduce_all(x, [](Vec a, Vec b) { return a + b; });
}
FA_INLINE Vec reduce_maxes(Vec (&x)[W]) {
  return reduce_all(x, [](Vec a, Vec b) { return max(a, b); });
}

}  // namespace
