// plugin/cuda/src/primitives.cuh for the host: the same functions on the double's machine.
#pragma once

#include <cmath>

#include "machine.h"

#define FA_DEVICE inline
#define FA_KERNEL(threads, blocks) extern "C" void

namespace fa {

constexpr float kInf = __builtin_huge_valf();
constexpr float kLog2e = 1.4426950408889634f;

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

inline int thread_index() { return machine::block->current; }
inline uint32_t block_index() { return machine::block->index; }
inline uint32_t block_count() { return machine::block->count; }
inline bool nothing_to_do() { return false; }
inline void block_sync() { machine::meet_named(0, machine::block->threads, true); }
inline void warp_sync() { machine::meet_warp("warp_sync"); }

inline float shuffle_xor(float value, int mask) {
  float given = value, result = 0;
  struct Lane {
    float given;
    float* result;
  } lane = {given, &result};
  machine::meet_warp("shuffle_xor", &lane, [&](std::vector<void*>& lanes) {
    for (int i = 0; i < 32; ++i)
      *static_cast<Lane*>(lanes[i])->result = static_cast<Lane*>(lanes[i ^ mask])->given;
  });
  return result;
}
inline int warp_uniform(int value) {
  int result = value;
  machine::meet_warp("warp_uniform", &result, [](std::vector<void*>& lanes) {
    for (void* lane : lanes) *static_cast<int*>(lane) = *static_cast<int*>(lanes[0]);
  });
  return result;
}

inline float exp2_fast(float x) {
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}
inline float log2_accurate(float x) { return std::log2(x); }
inline float tanh_fast(float x) { return std::tanh(x); }
inline float fused_multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline float multiply_rounded(float a, float b) {
  volatile float product = a * b;
  return product;
}
inline float maximum(float a, float b) { return std::fmax(a, b); }
inline float bits_to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t float_to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float to_float(F32 x) { return bits_to_float(x.bits); }
inline float to_float(BF16 x) { return bits_to_float(uint32_t(x.bits) << 16); }
inline float to_float(F16 x) {
  const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
  const float sign = x.bits >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * kInf;
  if (exponent == 0) return sign * std::ldexp(float(mantissa), -24);
  return sign * std::ldexp(float(mantissa + 1024), exponent - 25);
}

inline uint16_t round_bits(float x, BF16) {
  const uint32_t bits = float_to_bits(x);
  if (std::isnan(x)) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint16_t round_bits(float x, F16) {
  const uint16_t sign = float_to_bits(x) >> 16 & 0x8000;
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return 0x7fff;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  int exponent = magnitude == 0.0f ? -14 : std::ilogb(magnitude);
  if (exponent < -14) exponent = -14;
  // nearbyint rounds to even; a carry into the exponent is right as it stands.
  const int mantissa = int(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return uint16_t(sign | (((exponent + 14) << 10) + mantissa));
}
template <class E>
inline uint32_t pack2(float low, float high) {
  return round_bits(low, E{}) | uint32_t(round_bits(high, E{})) << 16;
}

// ---- Shared memory ------------------------------------------------------------------------------

inline uint32_t shared_base() { return (machine::kSharedBase + 1023u) & ~1023u; }

template <class T>
inline void store_shared(uint32_t address, T v) {
  std::memcpy(machine::shared_at(address, sizeof(T)), &v, sizeof(T));
}
inline Word4 load_shared(uint32_t address) {
  Word4 v;
  std::memcpy(&v, machine::shared_at(address, 16), 16);
  return v;
}
inline uint32_t load_shared_word(uint32_t address) {
  uint32_t v;
  std::memcpy(&v, machine::shared_at(address, 4), 4);
  return v;
}
inline float load_shared_float(uint32_t address) {
  float v;
  std::memcpy(&v, machine::shared_at(address, 4), 4);
  return v;
}

inline void copy_async(uint32_t destination, const void* source, int bytes) {
  if (bytes != 0 && reinterpret_cast<uintptr_t>(source) % 16 != 0)
    machine::fail("cp.async source is not aligned");
  machine::self().copies.back().push_back([=] {
    uint8_t* to = machine::shared_at(destination, 16);
    std::memset(to, 0, 16);
    std::memcpy(to, source, bytes);
  });
}
inline void copy_async_commit() { machine::self().copies.emplace_back(); }
template <int pending>
inline void copy_async_wait() {
  machine::run_groups(machine::self().copies, pending);
}

// ---- Matrix fragments ---------------------------------------------------------------------------

struct MatrixLane {
  uint32_t* r;
  uint32_t address;
};
inline uint16_t shared_half(uint32_t address) {
  uint16_t v;
  std::memcpy(&v, machine::shared_at(address, 2), 2);
  return v;
}
inline void load_matrices_of(uint32_t (&r)[4], uint32_t address, bool transposed) {
  MatrixLane lane = {r, address};
  machine::meet_warp(transposed ? "ldmatrix.trans" : "ldmatrix", &lane,
                     [transposed](std::vector<void*>& lanes) {
    for (int i = 0; i < 32; ++i) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        uint32_t value = 0;
        for (int half = 0; half < 2; ++half) {
          int row = i / 4, column = i % 4 * 2 + half;
          if (transposed) std::swap(row, column);
          const auto* giver = static_cast<MatrixLane*>(lanes[8 * matrix + row]);
          machine::shared_at(giver->address, 16);
          value |= uint32_t(shared_half(giver->address + column * 2)) << 16 * half;
        }
        static_cast<MatrixLane*>(lanes[i])->r[matrix] = value;
      }
    }
  });
}
inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  load_matrices_of(r, address, false);
}
inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  load_matrices_of(r, address, true);
}

template <class E>
inline float half_of(uint32_t word, int half) {
  return to_float(E{uint16_t(word >> 16 * half)});
}

struct ProductLane {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};
// The two 16-byte halves of a step hold kHalf values each; `value(word, i)` gives them.
template <int kHalf, class Value>
inline void multiply_lanes(const char* name, ProductLane& lane, Value value) {
  machine::meet_warp(name, &lane, [value](std::vector<void*>& lanes) {
    constexpr int kWords = kHalf / 4;  // values in a register
    float A[16][2 * kHalf], B[2 * kHalf][8];
    for (int i = 0; i < 32; ++i) {
      const auto* at = static_cast<ProductLane*>(lanes[i]);
      for (int j = 0; j < kWords; ++j) {
        const int k = i % 4 * kWords + j;
        for (int r = 0; r < 4; ++r)
          A[i / 4 + r % 2 * 8][k + r / 2 * kHalf] = value(at->a[r], j);
        for (int r = 0; r < 2; ++r) B[k + r * kHalf][i / 4] = value(at->b[r], j);
      }
    }
    for (int i = 0; i < 32; ++i) {
      for (int e = 0; e < 4; ++e) {
        double sum = 0;
        for (int k = 0; k < 2 * kHalf; ++k)
          sum += double(A[i / 4 + e / 2 * 8][k]) * B[k][i % 4 * 2 + e % 2];
        static_cast<ProductLane*>(lanes[i])->d[e] += float(sum);
      }
    }
  });
}
template <class E>
inline void multiply_accumulate(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  ProductLane lane = {d, a, {b0, b1}};
  multiply_lanes<8>("mma", lane, [](uint32_t word, int half) { return half_of<E>(word, half); });
}
inline void multiply_accumulate_tf32(float* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  ProductLane lane = {d, a, {b0, b1}};
  multiply_lanes<4>("mma", lane,
                    [](uint32_t word, int) { return bits_to_float(word & ~0x1fffu); });
}

}  // namespace fa
