// The machine's own limits, measured in the same run as the kernels: FMA rates and read bandwidth.
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define CHAINS 12

// `rounds` x 12 independent FMA chains; returns floating-point operations done. No chain may start at
// 1, which x and y leave as it is: the compiler would drop it.
__attribute__((target("avx512f"))) double fma_avx512(uint64_t rounds, float *sink) {
  __m512 a[CHAINS], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  for (int i = 0; i < CHAINS; ++i) a[i] = _mm512_set1_ps(i + 0.5f);
  for (uint64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) a[i] = _mm512_fmadd_ps(a[i], x, y);
  for (int i = 0; i < CHAINS; ++i) sink[i] = _mm512_reduce_add_ps(a[i]);
  return 2.0 * 16 * CHAINS * (double)rounds;
}

__attribute__((target("avx2,fma"))) double fma_avx2(uint64_t rounds, float *sink) {
  __m256 a[CHAINS], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  for (int i = 0; i < CHAINS; ++i) a[i] = _mm256_set1_ps(i + 0.5f);
  for (uint64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) a[i] = _mm256_fmadd_ps(a[i], x, y);
  for (int i = 0; i < CHAINS; ++i) sink[i] = _mm256_cvtss_f32(a[i]);
  return 2.0 * 8 * CHAINS * (double)rounds;
}

// Multiply-adds of bf16 pairs (counted as 4 operations a lane).
__attribute__((target("avx512f,avx512bf16"))) double dot_bf16(uint64_t rounds, float *sink) {
  __m512 a[CHAINS];
  __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00), y = x;
  for (int i = 0; i < CHAINS; ++i) a[i] = _mm512_set1_ps(i + 0.5f);
  for (uint64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) a[i] = _mm512_dpbf16_ps(a[i], x, y);
  for (int i = 0; i < CHAINS; ++i) sink[i] = _mm512_reduce_add_ps(a[i]);
  return 4.0 * 16 * CHAINS * (double)rounds;
}
#else
#define CHAINS 24
double fma_neon(uint64_t rounds, float *sink) {
  typedef float v4 __attribute__((vector_size(16)));
  v4 a[CHAINS], x = {0.999f, 0.999f, 0.999f, 0.999f}, y = {0.001f, 0.001f, 0.001f, 0.001f};
  for (int i = 0; i < CHAINS; ++i) a[i] = y + (float)i;
  for (uint64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 24
    for (int i = 0; i < CHAINS; ++i) a[i] = __builtin_elementwise_fma(a[i], x, y);
  for (int i = 0; i < CHAINS; ++i) sink[i] = a[i][0];
  return 2.0 * 4 * CHAINS * (double)rounds;
}
#endif

// Sums `bytes` bytes in four streams; returns the bytes read.
double read_bytes(const char *data, uint64_t bytes, float *sink) {
  typedef int v16 __attribute__((vector_size(64), aligned(64)));
  uint64_t part = bytes / 4 / 64;
  const v16 *p = (const v16 *)data;
  v16 s[4] = {0};
  for (uint64_t i = 0; i < part; ++i)
    for (int j = 0; j < 4; ++j) s[j] += p[i + j * part];
  sink[0] = (float)(s[0][0] + s[1][1] + s[2][2] + s[3][3]);
  return (double)(part * 4 * 64);
}
