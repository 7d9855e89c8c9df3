// Instances of attention on warpgroup products; the kernel table's defines say which.
//   FA_NAME         the symbol             FA_ELEMENT     F16 or BF16
//   FA_DK, FA_DV    head dims served       FA_GROUPS, FA_KV_TILE, FA_STAGES, FA_TURNS
//   FA_GENERAL      1 with masks, bias, softcap and finite fills
//   FA_BLOCKS       blocks at once on a multiprocessor, 1 if absent
#include "forward_wgmma.cuh"

#ifndef FA_BLOCKS
#define FA_BLOCKS 1
#endif

using Config = fa::WgmmaConfig<fa::FA_ELEMENT, FA_DK, FA_DV, FA_GROUPS, FA_KV_TILE, FA_STAGES,
                               FA_TURNS, FA_GENERAL, FA_BLOCKS>;
#ifdef FA_SHARED_BYTES  // what the table asks the launcher for
static_assert(Config::kSharedBytes == FA_SHARED_BYTES, "scratch_bytes of the kernel table");
static_assert(Config::kThreads == FA_WORKGROUP, "workgroup of the kernel table");
static_assert(Config::kQTile == FA_Q_TILE, "q_tile of the kernel table");
#endif

FA_KERNEL(Config::kThreads, Config::kBlocks)
FA_NAME(const void* q, const void* k, const void* v, const void* mask, const void* bias,
        const void* sinks, void* lse, void* out, FA_WORD_PARAMETERS) {
  if (fa::nothing_to_do()) return;
  const fa::Words words = FA_WORD_VALUES;
  fa::forward_block<Config>(words, q, k, v, mask, bias, sinks, lse, out);
}
