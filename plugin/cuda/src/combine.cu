// The merge of split-KV attention (role "combine").
#include "partial_mma.cuh"

FA_KERNEL(fa::kCombineThreads, 1)
FA_NAME(const float* partial_o, const float* partial_ml, const float* sinks, void* lse, void* out,
        FA_WORD_PARAMETERS) {
  if (fa::nothing_to_do()) return;
  const fa::Words words = FA_WORD_VALUES;
  fa::combine_block<fa::FA_ELEMENT>(words, partial_o, partial_ml, sinks, lse, out);
}
