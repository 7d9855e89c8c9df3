// The bridge inside a Python process. The plugin links no Python: iree_flashattn.activation hands it
// a function pointer (ctypes), which takes the interpreter's lock by itself when it is called.

#include <atomic>

#include "bridge.h"

namespace {

// Rewrites the module whose MlirOperation is `module`; on failure calls flashattn_set_error.
using Callback = bool (*)(void *module);

std::atomic<Callback> callback{nullptr};
std::atomic<long> sessions{0};
thread_local std::string callback_error;

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// From now on every new compiler session of this process uses the plugin, through `function`.
EXPORT void flashattn_activate(Callback function) { callback = function; }

// How many compiler sessions this process has made: those keep what they were made with.
EXPORT long flashattn_session_count() { return sessions; }

// For the callback, before it returns false.
EXPORT void flashattn_set_error(const char *message) { callback_error = message; }

namespace flashattn {

bool activatedByDefault() { return callback.load() != nullptr; }
bool haveInProcessBridge() { return callback.load() != nullptr; }
void countSession() { ++sessions; }

bool rewriteInProcess(MlirOperation module, std::string &error) {
  callback_error = "the Python side failed without a message";
  if (callback.load()(module.ptr)) return true;
  error = callback_error;
  return false;
}

}  // namespace flashattn
