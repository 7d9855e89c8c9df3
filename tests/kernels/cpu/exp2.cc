// exp2 of simd.h over arrays of whole vectors. The build adds an instruction set's file's settings.
#include "simd.h"

#define OVER_ARRAY(name)                                              \
  extern "C" __attribute__((visibility("default"))) void name##_all( \
      const float *x, float *y, int64_t n) {                          \
    for (int64_t i = 0; i < n; i += W) store(y + i, name(load(x + i))); \
  }
OVER_ARRAY(exp2)
OVER_ARRAY(exp2_coarse)
