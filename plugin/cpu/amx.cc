// AMX tiles for the products, AVX-512 for everything else; 8 rows of few are read in place.
#define FA_LANES 16
#define FA_ROWS 8
#define FA_VECTORS 2
#define FA_NATIVE_F16
#define FA_DOT_BF16
#define FA_TILES
#include "kernel.h"
