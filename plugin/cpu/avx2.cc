// AVX2 with FMA and F16C: 16 registers hold 6 x 2 accumulators, 2 columns and a broadcast.
#define FA_LANES 8
#define FA_ROWS 6
#define FA_VECTORS 2
#define FA_NATIVE_F16
#include "kernel.h"
