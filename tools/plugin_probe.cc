// A compiler plugin that says which of its virtual functions the compiler calls, and when.
// check_compiler.py builds it against plugin_abi.h: a compiler whose classes have another shape calls
// them in another order, or crashes, or refuses the hash.

#include <stdio.h>

#include "plugin_abi.h"

#ifndef PROBE_ABI_HASH
#define PROBE_ABI_HASH flashattn::kAbiHash
#endif

namespace {

void say(const char *what) { fprintf(stderr, "[probe] %s\n", what); }

class ProbeSession final : public flashattn::Session {
 public:
  void registerDialects(flashattn::DialectRegistry &) override { say("registerDialects"); }
  void extendInputConversionPreprocessingPassPipeline(flashattn::PassManager &, int) override {
    say("extendInputConversionPreprocessingPassPipeline");
  }
  void populateCustomInputConversionTypes(void *) override {
    say("populateCustomInputConversionTypes");
  }
  void populateDetectedCustomInputConversionTypes(void *, void *) override {
    say("populateDetectedCustomInputConversionTypes");
  }
  bool extendCustomInputConversionPassPipeline(flashattn::PassManager &,
                                               std::string_view) override {
    say("extendCustomInputConversionPassPipeline");
    return false;
  }
  void extendPreprocessingPassPipeline(flashattn::PassManager &) override {
    say("extendPreprocessingPassPipeline");
  }
  void populateHALTargetDevices(flashattn::TargetList &) override {
    say("populateHALTargetDevices");
  }
  void populateHALTargetBackends(flashattn::TargetList &) override {
    say("populateHALTargetBackends");
  }
  void onRegisterDialects(flashattn::DialectRegistry &) override { say("onRegisterDialects"); }
  flashattn::LogicalResult onActivate() override {
    say(context ? "onActivate with a context" : "onActivate without a context");
    return {true};
  }
};

class ProbeRegistration final : public flashattn::Registration {
 public:
  ProbeRegistration() : Registration("flashattn_probe") {}
  Activation getActivationPolicy() override { return say("getActivationPolicy"), kExplicit; }
  void globalInitialize() override { say("globalInitialize"); }
  void registerPasses() override { say("registerPasses"); }
  void initializeCLI() override { say("initializeCLI"); }
  void registerGlobalDialects(flashattn::DialectRegistry &) override {
    say("registerGlobalDialects");
  }
  std::unique_ptr<flashattn::Session> createUninitializedSession(
      flashattn::OptionsBinder &) override {
    say("createUninitializedSession");
    return std::make_unique<ProbeSession>();
  }
};

bool registerPlugin(void *registrar) {
  auto *words = static_cast<flashattn::Registrar *>(registrar);
  fprintf(stderr, "[probe] registrar buckets=%p count=%u items=%u item_size=%u\n",
          static_cast<void *>(words->buckets), words->bucket_count, words->item_count,
          words->item_size);
  return flashattn::putRegistration(words, new ProbeRegistration());
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const flashattn::PluginInfo *
iree_get_compiler_plugin_info() {
  static const flashattn::PluginInfo info = {PROBE_ABI_HASH, "flashattn_probe", "0",
                                             registerPlugin};
  return &info;
}
