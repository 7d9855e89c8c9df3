// What the kernels use of the GPU, one thin function per instruction; sm_80 and later.
//
// Kernels reach the machine through these functions alone, so a second implementation of this
// header (tests/kernels/cuda/double) runs the same kernel source on a CPU. Shared memory is
// addressed by 32-bit byte addresses, as the instructions do.
#pragma once

#include <cstdint>

#define FA_DEVICE __device__ __forceinline__
#define FA_KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

namespace fa {

constexpr float kInf = __builtin_huge_valf();
constexpr float kLog2e = 1.4426950408889634f;

// Element types are tags over their bits; arithmetic is f32.
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};
struct F32 {
  uint32_t bits;
};

struct alignas(16) Word4 {
  uint32_t x, y, z, w;
};

FA_DEVICE int thread_index() { return threadIdx.x; }
FA_DEVICE uint32_t block_index() { return blockIdx.x; }
FA_DEVICE uint32_t block_count() { return gridDim.x; }
// Drivers refuse a launch of no blocks, so a dispatch without work launches two along y.
FA_DEVICE bool nothing_to_do() { return gridDim.y != 1; }
FA_DEVICE void block_sync() { __syncthreads(); }
FA_DEVICE void warp_sync() { __syncwarp(); }

// The value of one lane, known by the compiler to be the same in the whole warp.
FA_DEVICE int warp_uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

FA_DEVICE float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// 2^x, with results below the normal range flushed to zero.
FA_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

FA_DEVICE float log2_accurate(float x) { return log2f(x); }

// tanh to an absolute error of about 2e-7.
FA_DEVICE float tanh_fast(float x) {
  return 1.0f - __fdividef(2.0f, 1.0f + exp2_fast(x * (2.0f * kLog2e)));
}
FA_DEVICE float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
// A product that the compiler must not fuse with an addition.
FA_DEVICE float multiply_rounded(float a, float b) { return __fmul_rn(a, b); }
FA_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
FA_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
FA_DEVICE uint32_t float_to_bits(float x) { return __float_as_uint(x); }

FA_DEVICE float to_float(BF16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
FA_DEVICE float to_float(F16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
FA_DEVICE float to_float(F32 x) { return __uint_as_float(x.bits); }

// Two values rounded to the element type, `low` in the low half.
template <class E>
FA_DEVICE uint32_t pack2(float low, float high);
template <>
FA_DEVICE uint32_t pack2<F16>(float low, float high) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
template <>
FA_DEVICE uint32_t pack2<BF16>(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

// ---- Shared memory ------------------------------------------------------------------------------

// The block's dynamic shared memory, at a multiple of 1024 bytes; the launch asks for 1024 more.
FA_DEVICE uint32_t shared_base() {
  extern __shared__ uint8_t fa_dynamic_shared[];
  return (static_cast<uint32_t>(__cvta_generic_to_shared(fa_dynamic_shared)) + 1023u) & ~1023u;
}

FA_DEVICE void store_shared(uint32_t address, Word4 v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}
FA_DEVICE void store_shared(uint32_t address, uint32_t v) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
FA_DEVICE void store_shared(uint32_t address, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory");
}
FA_DEVICE Word4 load_shared(uint32_t address) {
  Word4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
FA_DEVICE uint32_t load_shared_word(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}
FA_DEVICE float load_shared_float(uint32_t address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}

// 16 bytes from global to shared memory without registers; reads `bytes` of them (0 or 16) and
// fills the rest with zeros.
FA_DEVICE void copy_async(uint32_t destination, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(destination),
               "l"(__cvta_generic_to_global(source)), "r"(bytes)
               : "memory");
}
FA_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
FA_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- Matrix fragments ---------------------------------------------------------------------------

// Four 8x8 matrices of 16-bit elements; lanes 8i..8i+7 give the row addresses of matrix i.
FA_DEVICE void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
FA_DEVICE void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// d[0..3] += A(16x16) B(16x8), f32 accumulators.
template <class E>
FA_DEVICE void multiply_accumulate(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
#define FA_MMA(E, TYPE)                                                                          \
  template <>                                                                                    \
  FA_DEVICE void multiply_accumulate<E>(float* d, const uint32_t(&a)[4], uint32_t b0,            \
                                        uint32_t b1) {                                           \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                                   \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                   \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                         \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                         \
  }
// d[0..3] += A(16x8) B(8x8) of tf32 values.
FA_DEVICE void multiply_accumulate_tf32(float* d, const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7},"
      " {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

FA_MMA(F16, "f16")
FA_MMA(BF16, "bf16")
#undef FA_MMA

}  // namespace fa
