// The pass: picks a bridge, and turns whatever goes wrong there into a compile error.

#include "pass.h"

#include <string.h>

#include <string>

#include "bridge.h"

namespace flashattn {
namespace {

MlirStringRef ref(const char *text) { return {text, strlen(text)}; }

void run(MlirOperation module, MlirExternalPass pass, void *) {
  std::string error;
  bool done = haveInProcessBridge() ? rewriteInProcess(module, error)
                                    : rewriteInChild(module, error);
  if (done) return;
  mlirEmitError(mlirOperationGetLocation(module), ("iree-flashattn: " + error).c_str());
  mlirExternalPassSignalFailure(pass);
}

void nothing(void *) {}
void *same(void *user_data) { return user_data; }
MlirLogicalResult initialize(MlirContext, void *) { return {1}; }

}  // namespace

void addRewritePass(MlirOpPassManager pass_manager) {
  alignas(8) static char type_id_storage;
  MlirExternalPassCallbacks callbacks = {nothing, nothing, initialize, same, run};
  MlirPass pass = mlirCreateExternalPass(
      mlirTypeIDCreate(&type_id_storage), ref("FlashAttentionSubstitution"),
      ref("flashattn-substitute"), ref("Substitutes FlashAttention kernels for attention regions"),
      ref("builtin.module"), 0, nullptr, callbacks, nullptr);
  mlirOpPassManagerAddOwnedPass(pass_manager, pass);
}

}  // namespace flashattn
