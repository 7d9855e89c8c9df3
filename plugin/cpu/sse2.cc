// Any x86-64: SSE2 has no FMA and no f16 conversion; 16 registers hold 4 x 2 accumulators.
#define FA_LANES 4
#define FA_ROWS 4
#define FA_VECTORS 2
#define FA_NO_FMA
#include "kernel.h"
