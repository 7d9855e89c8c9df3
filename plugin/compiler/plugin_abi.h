// A mirror of the C++ classes through which IREE 3.13 talks to a compiler plugin.
//
// The compiler library exports no C++ symbols and its wheel carries no headers, so the shapes are
// repeated here: virtual functions match by their order (Itanium C++ ABI), data by their offsets.
// They hold for compilers with the ABI hash below and no other; tools/check_compiler.py probes them
// in an installed wheel. Nothing outside this header depends on them.
#ifndef FLASHATTN_COMPILER_PLUGIN_ABI_H_
#define FLASHATTN_COMPILER_PLUGIN_ABI_H_

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "mlir_c.h"

namespace flashattn {

// The compiler's hash of its own plugin headers; it refuses a plugin with another one, loudly and
// in every compilation. That is why only the installed compilers that we know get the plugin.
constexpr uint64_t kAbiHash = 0x27493ee2eddc0611;

// What iree_get_compiler_plugin_info returns.
struct PluginInfo {
  uint64_t abi_hash;
  const char *id;
  const char *version;
  bool (*register_plugin)(void *registrar);
};
static_assert(sizeof(PluginInfo) == 32 && offsetof(PluginInfo, register_plugin) == 24);

// Classes of the compiler that are only passed along by reference.
struct DialectRegistry;
struct OptionsBinder;
struct TypeConverter;
struct TargetList;
struct PassManager;  // the object that MlirOpPassManager points to
struct LogicalResult { bool succeeded; };
static_assert(sizeof(LogicalResult) == 1);

// mlir::iree_compiler::AbstractPluginSession: one per compiler session.
class Session {
 public:
  virtual ~Session() = default;
  virtual void registerDialects(DialectRegistry &) {}
  virtual void extendInputConversionPreprocessingPassPipeline(PassManager &, int) {}
  virtual void populateCustomInputConversionTypes(void *) {}
  virtual void populateDetectedCustomInputConversionTypes(void *, void *) {}
  virtual bool extendCustomInputConversionPassPipeline(PassManager &, std::string_view) {
    return false;
  }
  virtual void extendPreprocessingPassPipeline(PassManager &) {}
  virtual void populateHALTargetDevices(TargetList &) {}
  virtual void populateHALTargetBackends(TargetList &) {}
  virtual void onRegisterDialects(DialectRegistry &) {}
  virtual LogicalResult onActivate() { return {true}; }

  void *context = nullptr;  // MLIRContext, set by the compiler before onActivate
};
static_assert(sizeof(Session) == 16);

// mlir::iree_compiler::AbstractPluginRegistration: one per process.
class Registration {
 public:
  enum Activation : int { kExplicit = 0, kByDefault = 1 };

  explicit Registration(const char *id) : id(id) {}
  virtual ~Registration() = default;
  virtual Activation getActivationPolicy() = 0;
  virtual void globalInitialize() {}
  virtual void registerPasses() {}
  virtual void initializeCLI() {}
  virtual void registerGlobalDialects(DialectRegistry &) {}
  virtual std::unique_ptr<Session> createUninitializedSession(OptionsBinder &) = 0;

  std::string id;
};
static_assert(sizeof(Registration) == 8 + sizeof(std::string));
static_assert(sizeof(std::string) == 32, "the compiler uses libstdc++'s std::string (new ABI)");

// The registrar begins with an empty llvm::StringMap<std::unique_ptr<Registration>>. The compiler
// iterates over the buckets and takes the entries over, so that one entry in any bucket will do.
struct Registrar {
  void **buckets;
  uint32_t bucket_count, item_count, item_size;
};
static_assert(offsetof(Registrar, item_count) == 12 && offsetof(Registrar, item_size) == 16);

// Puts `registration` into the empty registrar. False if this isn't the layout that we know.
inline bool putRegistration(Registrar *registrar, Registration *registration) {
  if (registrar->buckets || registrar->bucket_count || registrar->item_count) return false;
  if (registrar->item_size != 16) return false;
  constexpr uint32_t kBuckets = 16;
  // LLVM's own allocation: the buckets, a sentinel that ends iteration, then the hashes.
  auto **buckets = static_cast<void **>(
      calloc(1, (kBuckets + 1) * sizeof(void *) + kBuckets * sizeof(uint32_t)));
  struct Entry {
    size_t key_length;
    Registration *value;
    char key[];
  };
  const std::string &id = registration->id;
  auto *entry = static_cast<Entry *>(malloc(sizeof(Entry) + id.size() + 1));
  if (!buckets || !entry) return false;
  entry->key_length = id.size();
  entry->value = registration;
  memcpy(entry->key, id.c_str(), id.size() + 1);
  buckets[0] = entry;
  buckets[kBuckets] = reinterpret_cast<void *>(2);
  registrar->buckets = buckets;
  registrar->bucket_count = kBuckets;
  registrar->item_count = 1;
  return true;
}

}  // namespace flashattn

#endif  // FLASHATTN_COMPILER_PLUGIN_ABI_H_
