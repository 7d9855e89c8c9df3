// The kernel's C entry point. One translation unit is one row of kernels.toml: the build defines
//   FA_NAME                the symbol
//   FA_ROLE_forward, FA_ROLE_partial or FA_ROLE_combine
//   FA_ELEMENT_f32, _f16 or _bf16
//   FA_Q_TILE, FA_KV_TILE, FA_SCRATCH_BYTES   the row's tile sizes and scratch memory
// and includes an instruction set's file, which sets the vector width and includes this one.
#pragma once
#include <stdint.h>

namespace {
constexpr int64_t kQTile = FA_Q_TILE;
constexpr int64_t kKvTile = FA_KV_TILE;
constexpr int64_t kScratchBytes = FA_SCRATCH_BYTES;

template <int N>
struct Constant {
  static constexpr int value = N;
};
}  // namespace

#include "finish.h"

static_assert(kKvTile % kPanel == 0, "a key tile is a whole number of panels");

extern "C" __attribute__((visibility("hidden"))) void FA_NAME(
    const void *q, const void *k, const void *v, const void *mask, const void *bias,
    const float *sinks, void *o, void *weights, float *lse, const uint32_t words[FA_WORD_COUNT],
    uint32_t x, uint32_t y, uint32_t z, void *scratch) {
#if defined(FA_ROLE_combine)
  Problem p = decode(q, q, q, mask, bias, sinks, words);
  combine(p, static_cast<const float *>(q), static_cast<const float *>(k), x, y, z, o, lse,
          scratch);
#else
  Problem p = decode(q, k, v, mask, bias, sinks, words);
#if defined(FA_TILES)
  const TileRegisters tiles;  // for this workgroup: the next one may run in another thread
#endif
#if defined(FA_ROLE_partial)
  partial(p, x, y, z, static_cast<float *>(o), static_cast<float *>(weights), scratch);
#else
  forward(p, x, y, z, o, weights, lse, scratch);
#endif
#endif
}
