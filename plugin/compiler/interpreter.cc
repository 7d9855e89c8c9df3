#include "interpreter.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

namespace flashattn {
namespace {

// The package's start-up hook (iree_flashattn/_startup.py) leaves its own interpreter here.
constexpr char kVariable[] = "IREE_FLASHATTN_PYTHON";

bool runnable(const std::string &path) { return access(path.c_str(), X_OK) == 0; }

// Where the environment that holds this library has its interpreter: .../bin/python3 next to
// .../lib/python3.x/site-packages/iree_flashattn/_native/lib/<library>.
std::string besideLibrary() {
  Dl_info info;
  char full[PATH_MAX];
  if (!dladdr(reinterpret_cast<void *>(&findInterpreter), &info)) return "";
  if (!realpath(info.dli_fname, full)) return "";
  std::string path = full;
  size_t packages = path.rfind("/lib/python3");
  return packages == std::string::npos ? "" : path.substr(0, packages) + "/bin/python3";
}

}  // namespace

bool findInterpreter(std::string &path, std::string &error) {
  const char *recorded = getenv(kVariable);
  path = recorded && *recorded ? recorded : besideLibrary();
  if (runnable(path)) return true;
  error = "the Python interpreter that has iree-flashattn installed is gone: looked for " +
          (path.empty() ? std::string("bin/python3 above the plugin") : path) +
          "; reinstall the package, or set " + kVariable + " to the interpreter that has it";
  return false;
}

}  // namespace flashattn
