// Entry point of the compiler plugin, its registration and its session.

#include <stdio.h>

#include "bridge.h"
#include "pass.h"
#include "plugin_abi.h"

namespace flashattn {
namespace {

constexpr char kId[] = "flashattn";

class FlashAttentionSession final : public Session {
 public:
  // The first moment at which the compiler says who it is, and only when the user asked for us. The
  // ABI hash covers the classes of plugin_abi.h; the revision covers all else that we rely on.
  LogicalResult onActivate() override {
    const char *revision = ireeCompilerGetRevision();
    if (strstr(revision, FLASHATTN_COMPILER_REVISION)) return {true};
    fprintf(stderr,
            "iree-flashattn %s works with iree-base-compiler %s, and this compiler is %s: install"
            " iree-base-compiler==%s or compile without this plugin\n",
            FLASHATTN_VERSION, FLASHATTN_COMPILER_VERSION, revision, FLASHATTN_COMPILER_VERSION);
    return {false};
  }

  // At the end of the preprocessing phase: everything is linalg on tensors, devices are known.
  void extendPreprocessingPassPipeline(PassManager &pass_manager) override {
    addRewritePass(MlirOpPassManager{&pass_manager});
  }
};

class FlashAttentionRegistration final : public Registration {
 public:
  FlashAttentionRegistration() : Registration(kId) {}
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

// The compiler skips a path that it has loaded before, but refuses an id that it has. The same
// library under another path (a link) gets here a second time: it then has nothing to register.
extern "C" __attribute__((visibility("default"))) const flashattn::PluginInfo *
iree_get_compiler_plugin_info() {
  using flashattn::PluginInfo;
  static const PluginInfo first = {flashattn::kAbiHash, flashattn::kId, FLASHATTN_VERSION,
                                   flashattn::registerPlugin};
  static const PluginInfo again = {flashattn::kAbiHash, "flashattn-loaded-before",
                                   FLASHATTN_VERSION, [](void *) { return true; }};
  static bool called = false;
  const PluginInfo *info = called ? &again : &first;
  called = true;
  return info;
}
