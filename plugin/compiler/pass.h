#ifndef FLASHATTN_COMPILER_PASS_H_
#define FLASHATTN_COMPILER_PASS_H_

#include "mlir_c.h"

namespace flashattn {

// Adds the pass on builtin.module that substitutes attention kernels.
void addRewritePass(MlirOpPassManager);

}  // namespace flashattn

#endif  // FLASHATTN_COMPILER_PASS_H_
