// aarch64 NEON: 32 registers of 4 floats hold 4 x 4 accumulators, which cover the FMA latency.
#define FA_LANES 4
#define FA_ROWS 4
#define FA_VECTORS 4
#define FA_NATIVE_F16
#include "kernel.h"
