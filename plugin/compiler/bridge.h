// The two ways in which the pass hands its module to iree_flashattn.rewrite.
#ifndef FLASHATTN_COMPILER_BRIDGE_H_
#define FLASHATTN_COMPILER_BRIDGE_H_

#include <string>

#include "mlir_c.h"

namespace flashattn {

// Each returns true and leaves the rewritten module in `module`, or returns false with what the
// user is told in `error`.

// In a Python process after iree_flashattn.activate(): calls Python, which edits in place.
bool rewriteInProcess(MlirOperation module, std::string &error);
bool haveInProcessBridge();

// Anywhere else: runs `python -m iree_flashattn.child` and exchanges MLIR bytecode in files.
bool rewriteInChild(MlirOperation module, std::string &error);

// True once activate() has asked for the plugin in every session of the process.
bool activatedByDefault();
void countSession();

}  // namespace flashattn

#endif  // FLASHATTN_COMPILER_BRIDGE_H_
