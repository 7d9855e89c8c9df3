// Entry point of the compiler plugin, its registration and its session.

#include "bridge.h"
#include "pass.h"
#include "plugin_abi.h"

namespace flashattn {
namespace {

class FlashAttentionSession final : public Session {
 public:
  // At the end of the preprocessing phase: everything is linalg on tensors, devices are known.
  void extendPreprocessingPassPipeline(PassManager &pass_manager) override {
    addRewritePass(MlirOpPassManager{&pass_manager});
  }
};

class FlashAttentionRegistration final : public Registration {
 public:
  FlashAttentionRegistration() : Registration("flashattn") {}
  Activation getActivationPolicy() override {
    return activatedByDefault() ? kByDefault : kExplicit;
  }
  std::unique_ptr<Session> createUninitializedSession(OptionsBinder &) override {
    countSession();
    return std::make_unique<FlashAttentionSession>();
  }
};

bool registerPlugin(void *registrar) {
  auto *registration = new FlashAttentionRegistration();
  if (putRegistration(static_cast<Registrar *>(registrar), registration)) return true;
  delete registration;
  return false;
}

}  // namespace
}  // namespace flashattn

extern "C" __attribute__((visibility("default"))) const flashattn::PluginInfo *
iree_get_compiler_plugin_info() {
  static const flashattn::PluginInfo info = {flashattn::kAbiHash, "flashattn", FLASHATTN_VERSION,
                                             flashattn::registerPlugin};
  return &info;
}
