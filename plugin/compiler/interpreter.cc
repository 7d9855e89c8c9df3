#include "interpreter.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

namespace flashattn {
namespace {

// The start-up hook of the package (flashattn_hook.py) leaves its own interpreter here.
constexpr char kVariable[] = "IREE_FLASHATTN_PYTHON";

bool runnable(const std::string &path) { return access(path.c_str(), X_OK) == 0; }

// Where the environment that holds this library has its interpreter: .../bin/python3 next to
// .../lib/python3.x/site-packages/iree_flashattn/_native/lib/<library>.
std::string besideLibrary() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&findInterpreter), &info) || !info.dli_fname) return "";
  std::string path = info.dli_fname;
  for (int level = 0; level < 7; ++level) {
    size_t slash = path.rfind('/');
    if (slash == std::string::npos) return "";
    path.resize(slash);
  }
  return path + "/bin/python3";
}

}  // namespace

bool findInterpreter(std::string &path, std::string &error) {
  const char *recorded = getenv(kVariable);
  path = recorded && *recorded ? recorded : besideLibrary();
  if (runnable(path)) return true;
  error = "the Python interpreter that has iree-flashattn installed is gone: looked for " + path +
          (recorded ? std::string(" (from ") + kVariable + ")" : std::string()) +
          "; reinstall the package, or run iree-compile from its environment";
  return false;
}

}  // namespace flashattn
