// Vectors of W floats, for every instruction set: clang's vector extensions do the arithmetic, and
// the few operations where an instruction set has something better are macros that its file sets.
//
// The including file defines
//   FA_LANES    floats in a vector (W)
//   FA_ROWS     rows of a register tile (at most W), FA_VECTORS vectors of a register tile
#pragma once
#include <stdint.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#define FA_INLINE inline __attribute__((always_inline))

constexpr int W = FA_LANES;
constexpr int kRows = FA_ROWS;
constexpr int kVectors = FA_VECTORS;
constexpr int kPanel = kVectors * W;  // columns of a packed panel
static_assert(kRows <= W, "the rows of a group are reduced together, a lane each");

typedef float Vec __attribute__((vector_size(W * 4)));
typedef float VecU __attribute__((vector_size(W * 4), aligned(4)));
typedef int32_t Int __attribute__((vector_size(W * 4)));
typedef uint32_t UInt __attribute__((vector_size(W * 4)));
typedef uint16_t Half __attribute__((vector_size(W * 2)));
typedef uint16_t HalfU __attribute__((vector_size(W * 2), aligned(2)));
typedef uint8_t BytesU __attribute__((vector_size(W), aligned(1)));

struct f16 { uint16_t bits; };
struct bf16 { uint16_t bits; };

// x - 0 is x for every x (0 + x is not: -0), so the subtraction folds away.
FA_INLINE Vec splat(float x) { return x - Vec{}; }
FA_INLINE Int splat_i(int32_t x) { return Int{} + x; }
FA_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(FA_NO_FMA)
  return a * b + c;
#else
  return __builtin_elementwise_fma(a, b, c);
#endif
}
// b where either is NaN, as the x86 instruction does.
FA_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
FA_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }

FA_INLINE Int lane_index() {
  Int i;
#pragma unroll
  for (int j = 0; j < W; ++j) i[j] = j;
  return i;
}

// ---- One element to and from f32 ----------------------------------------------------------------
FA_INLINE float widen(float x) { return x; }
FA_INLINE float widen(bf16 x) { return __builtin_bit_cast(float, uint32_t(x.bits) << 16); }
FA_INLINE float widen(f16 x) {
#if defined(FA_NATIVE_F16)
  return float(__builtin_bit_cast(_Float16, x.bits));
#else
  // Shift the exponent up and let one exact multiplication by 2^112 rebias it (also subnormals).
  uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = uint32_t(x.bits & 0x7fff) << 13;
  float scaled = __builtin_bit_cast(float, rest) * 0x1p112f;
  uint32_t bits = __builtin_bit_cast(uint32_t, scaled);
  if (rest >= 0x0f800000u) bits |= 0x7f800000u;  // inf and NaN
  return __builtin_bit_cast(float, sign | bits);
#endif
}
FA_INLINE void narrow(float *p, float x) { *p = x; }
FA_INLINE void narrow(bf16 *p, float x) {
  uint32_t bits = __builtin_bit_cast(uint32_t, x);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  p->bits = x != x ? uint16_t((bits >> 16) | 0x40) : uint16_t(rounded);
}
FA_INLINE void narrow(f16 *p, float x) {
#if defined(FA_NATIVE_F16)
  p->bits = __builtin_bit_cast(uint16_t, _Float16(x));
#else
  uint32_t bits = __builtin_bit_cast(uint32_t, x), sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffffu;
  uint32_t half;
  if (bits > 0x7f800000u) {
    half = 0x7e00;  // NaN
  } else if (bits >= 0x477ff000u) {
    half = 0x7c00;  // 65520 and above round to infinity
  } else if (bits < 0x38800000u) {
    // Subnormal: adding 0.5 puts the last f16 bit at the last f32 bit, and the adder rounds.
    float sum = __builtin_bit_cast(float, bits) + 0.5f;
    half = __builtin_bit_cast(uint32_t, sum) - 0x3f000000u;
  } else {
    half = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1)) >> 13;
  }
  p->bits = uint16_t(sign | half);
#endif
}

// ---- Vectors to and from memory (any alignment) --------------------------------------------------
FA_INLINE Vec load(const float *p) { return *reinterpret_cast<const VecU *>(p); }
FA_INLINE void store(float *p, Vec x) { *reinterpret_cast<VecU *>(p) = x; }

FA_INLINE Vec load(const bf16 *p) {
  UInt bits = __builtin_convertvector(*reinterpret_cast<const HalfU *>(p), UInt) << 16;
  return __builtin_bit_cast(Vec, bits);
}
FA_INLINE void store(bf16 *p, Vec x) {
  UInt bits = __builtin_bit_cast(UInt, x);
  UInt rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  UInt quiet = (bits >> 16) | 0x40u;
  *reinterpret_cast<HalfU *>(p) = __builtin_convertvector(x != x ? quiet : rounded, Half);
}
#if defined(FA_NATIVE_F16)
typedef _Float16 F16 __attribute__((vector_size(W * 2)));
typedef _Float16 F16U __attribute__((vector_size(W * 2), aligned(2)));
FA_INLINE Vec load(const f16 *p) {
  return __builtin_convertvector(*reinterpret_cast<const F16U *>(p), Vec);
}
FA_INLINE void store(f16 *p, Vec x) {
  *reinterpret_cast<F16U *>(p) = __builtin_convertvector(x, F16);
}
#else
FA_INLINE Vec load(const f16 *p) {
  Vec x;
#pragma unroll
  for (int j = 0; j < W; ++j) x[j] = widen(p[j]);
  return x;
}
FA_INLINE void store(f16 *p, Vec x) {
#pragma unroll
  for (int j = 0; j < W; ++j) narrow(p + j, x[j]);
}
#endif

// The first n lanes (n >= W: all); the others are 0, and their memory is not touched.
#if defined(__AVX512BW__)
FA_INLINE uint32_t first_lanes(int64_t n) { return n >= W ? 0xffffu : (1u << n) - 1; }
FA_INLINE Vec load_n(const float *p, int64_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
FA_INLINE Vec load_n(const bf16 *p, int64_t n) {
  __m256i x = _mm256_maskz_loadu_epi16(first_lanes(n), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
FA_INLINE Vec load_n(const f16 *p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
FA_INLINE Int load_bytes_n(const uint8_t *p, int64_t n) {
  return (Int)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p));
}
#else
template <class T>
FA_INLINE Vec load_n(const T *p, int64_t n) {
  if (n >= W) return load(p);
  alignas(64) float lanes[W] = {};
  for (int j = 0; j < W; ++j)
    if (j < n) lanes[j] = widen(p[j]);
  return load(lanes);
}
FA_INLINE Int load_bytes_n(const uint8_t *p, int64_t n) {
  if (n >= W) return __builtin_convertvector(*reinterpret_cast<const BytesU *>(p), Int);
  Int x = {};
  for (int j = 0; j < W; ++j)
    if (j < n) x[j] = p[j];
  return x;
}
#endif
template <class T>
FA_INLINE void store_n(T *p, Vec x, int64_t n) {
  if (n >= W) return store(p, x);
  for (int j = 0; j < W; ++j)
    if (j < n) narrow(p + j, x[j]);
}

// ---- exp2, log and tanh --------------------------------------------------------------------------
// 2^x for x <= 0 (also -inf, which gives 0, and NaN, which stays). Below -126 the result is 0: near
// enough for a probability, and subnormal numbers, slow on many machines, never arise.
// The polynomials are minimax fits of degree 5 with constant term 1. With the instruction that scales
// by 2^floor(x) on [0, 1), without on [-1/2, 1/2]; the whole is right to 1.7e-7
// with either, and to 1.9e-7 where there is no FMA.
FA_INLINE Vec exp2(Vec x) {
#if defined(__AVX512DQ__)
  const __mmask16 normal = _mm512_cmp_ps_mask(x, splat(-126.0f), _CMP_NLT_UQ);  // also NaN
  const Vec f = _mm512_reduce_ps(x, 0x01);  // x - floor(x); of -inf 0
  Vec p = splat(1.8671300e-3f);
  p = fma(p, f, splat(9.0170307e-3f));
  p = fma(p, f, splat(5.5799913e-2f));
  p = fma(p, f, splat(2.4016444e-1f));
  p = fma(p, f, splat(6.9315130e-1f));
  p = fma(p, f, splat(1.0f));
  return _mm512_maskz_scalef_ps(normal, p, x);
#else
  const Vec shift = splat(0x1.8p23f);
  Vec shifted = x + shift;
  Vec f = x - (shifted - shift);
  Vec p = splat(1.32647261e-3f);
  p = fma(p, f, splat(9.67151299e-3f));
  p = fma(p, f, splat(5.55073358e-2f));
  p = fma(p, f, splat(2.40222424e-1f));
  p = fma(p, f, splat(6.93147004e-1f));
  p = fma(p, f, splat(1.0f));
  Int n = __builtin_bit_cast(Int, shifted) << 23;
  Vec y = __builtin_bit_cast(Vec, __builtin_bit_cast(Int, p) + n);
  Int tiny = x < splat(-126.0f);  // false for NaN
  y = x != x ? x : y;
  return tiny ? Vec{} : y;
#endif
}

// The same to four digits (relative error 7.5e-5), for weights that are rounded to bf16: a minimax
// fit of degree 3 on [0, 1), so that the instruction that scales by 2^floor(x) needs no more.
FA_INLINE Vec exp2_coarse(Vec x) {
#if defined(__AVX512DQ__)
  const __mmask16 normal = _mm512_cmp_ps_mask(x, splat(-126.0f), _CMP_NLT_UQ);  // also NaN
  const Vec f = _mm512_reduce_ps(x, 0x01);  // x - floor(x); of -inf 0
#else
  const Vec whole = __builtin_elementwise_floor(x), f = x - whole;
#endif
  Vec p = splat(7.80245226e-2f);
  p = fma(p, f, splat(2.26067155e-1f));
  p = fma(p, f, splat(6.9583354e-1f));
  p = fma(p, f, splat(9.99925219e-1f));
#if defined(__AVX512DQ__)
  return _mm512_maskz_scalef_ps(normal, p, x);
#else
  const Int tiny = x < splat(-126.0f);  // false for NaN
  const Int n = __builtin_convertvector(tiny ? Vec{} : whole, Int) << 23;
  const Vec y = __builtin_bit_cast(Vec, __builtin_bit_cast(Int, p) + n);
  return tiny ? Vec{} : x != x ? x : y;
#endif
}

// e^x for x <= 0, by way of exp2; kCoarse: to four digits.
template <bool kCoarse = false>
FA_INLINE Vec exp_nonpositive(Vec x) {
  x *= splat(1.44269504088896340736f);
  return kCoarse ? exp2_coarse(x) : exp2(x);
}

// The natural logarithm of a normal x > 0 (NaN and infinity stay): x is m * 2^e with m around 1, and
// log m is 2 artanh((m - 1) / (m + 1)), whose series is cut where it is below half a rounding.
inline float log_positive(float x) {
  if (!(x < __builtin_inff())) return x;
  const int32_t bits = __builtin_bit_cast(int32_t, x);
  const int32_t e = (bits - 0x3f3504f3) >> 23;  // m lies between sqrt(1/2) and sqrt(2)
  const float m = __builtin_bit_cast(float, bits - e * 0x800000);
  const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  const float tail = z * (1.0f / 3 + z * (1.0f / 5 + z * (1.0f / 7 + z * (1.0f / 9))));
  return float(e) * 0.693147180559945309f + (2.0f * s + 2.0f * s * tail);
}

// tanh: odd polynomial near 0 (no cancellation), 1 - 2 / (e^2|x| + 1) elsewhere, as e^-2|x|.
FA_INLINE Vec tanh(Vec x) {
  Vec a = __builtin_elementwise_abs(x);
  Vec z = x * x;
  Vec p = splat(-6.10047e-3f);
  p = fma(p, z, splat(2.098802e-2f));
  p = fma(p, z, splat(-5.384451e-2f));
  p = fma(p, z, splat(1.333266e-1f));
  p = fma(p, z, splat(-3.3333325e-1f));
  Vec small = fma(p * z, x, x);
  Vec e = exp_nonpositive(a * splat(-2.0f));
  Vec large = __builtin_elementwise_copysign((splat(1.0f) - e) / (splat(1.0f) + e), x);
  return a < splat(0.625f) ? small : large;
}

}  // namespace
