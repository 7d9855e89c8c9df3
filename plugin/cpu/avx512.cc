// AVX-512 (F, BW, DQ, VL): 32 registers hold 12 x 2 accumulators, 2 columns and a broadcast.
#define FA_LANES 16
#define FA_ROWS 12
#define FA_VECTORS 2
#define FA_NATIVE_F16
#include "kernel.h"
