// Instances of attention on mma.sync; the kernel table's defines say which.
//   FA_NAME         the symbol             FA_ELEMENT     F16 or BF16
//   FA_DK, FA_DV    head dims served       FA_ROW_TILES, FA_ROW_WARPS, FA_KEY_WARPS, FA_KV_TILE, FA_STAGES
//   FA_GENERAL      1 with masks, bias, softcap and finite fills
//   FA_PARTIAL      1 for the role "partial"
//   FA_WEIGHTS      1 where P is a second result, absent elsewhere
#include "forward_mma.cuh"
#include "partial_mma.cuh"

#ifndef FA_WEIGHTS
#define FA_WEIGHTS 0
#endif

using Config = fa::MmaConfig<fa::FA_ELEMENT, FA_DK, FA_DV, FA_ROW_TILES, FA_ROW_WARPS, FA_KEY_WARPS,
                             FA_KV_TILE, FA_STAGES, FA_GENERAL, FA_WEIGHTS>;
#ifdef FA_SHARED_BYTES  // what the table asks the launcher for
static_assert(Config::kSharedBytes == FA_SHARED_BYTES, "scratch_bytes of the kernel table");
static_assert(Config::kThreads == FA_WORKGROUP, "workgroup of the kernel table");
static_assert(Config::kQTile == FA_Q_TILE, "q_tile of the kernel table");
#endif

#if FA_PARTIAL
FA_KERNEL(Config::kThreads, 1)
FA_NAME(const void* q, const void* k, const void* v, const void* mask, const void* bias,
        const void* sinks, void* partial_o, void* partial_ml, FA_WORD_PARAMETERS) {
  if (fa::nothing_to_do()) return;
  const fa::Words words = FA_WORD_VALUES;
  fa::partial_block<Config>(words, q, k, v, mask, bias, partial_o, partial_ml);
}
#elif FA_WEIGHTS
FA_KERNEL(Config::kThreads, 1)
FA_NAME(const void* q, const void* k, const void* v, const void* mask, const void* bias,
        const void* sinks, void* lse, void* out, void* weights, FA_WORD_PARAMETERS) {
  if (fa::nothing_to_do()) return;
  const fa::Words words = FA_WORD_VALUES;
  fa::forward_block<Config>(words, q, k, v, mask, bias, sinks, lse, out, weights);
}
#else
FA_KERNEL(Config::kThreads, 1)
FA_NAME(const void* q, const void* k, const void* v, const void* mask, const void* bias,
        const void* sinks, void* lse, void* out, FA_WORD_PARAMETERS) {
  if (fa::nothing_to_do()) return;
  const fa::Words words = FA_WORD_VALUES;
  fa::forward_block<Config>(words, q, k, v, mask, bias, sinks, lse, out);
}
#endif
