// The bridge of the native iree-compile: a child Python process that gets the module as bytecode in
// a file and leaves the rewritten one in another. Files, because both sides map them instead of
// copying (a model may carry gigabytes of weights); pipes would have to be read into memory first.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "bridge.h"
#include "interpreter.h"

extern char **environ;

namespace flashattn {
namespace {

// A directory of our own, removed with its three files at the end of the scope.
class Scratch {
 public:
  Scratch() {
    const char *base = getenv("TMPDIR");
    path_ = std::string(base && *base ? base : "/tmp") + "/iree-flashattn-XXXXXX";
    ok_ = mkdtemp(path_.data()) != nullptr;
  }
  ~Scratch() {
    if (!ok_) return;
    for (const std::string &path : {input(), output(), messages()}) unlink(path.c_str());
    rmdir(path_.c_str());
  }
  bool ok() const { return ok_; }
  const std::string &path() const { return path_; }
  std::string input() const { return path_ + "/in.mlirbc"; }
  std::string output() const { return path_ + "/out.mlirbc"; }
  std::string messages() const { return path_ + "/messages.txt"; }

 private:
  std::string path_;
  bool ok_;
};

std::string because(const std::string &what) { return what + ": " + strerror(errno); }

bool writeBytecode(MlirOperation module, const std::string &path, std::string &error) {
  struct Sink { FILE *file; bool ok; } sink = {fopen(path.c_str(), "wb"), true};
  if (!sink.file) return error = because("cannot write " + path), false;
  mlirOperationWriteBytecode(
      module,
      [](MlirStringRef chunk, void *user_data) {
        auto *sink = static_cast<Sink *>(user_data);
        if (sink->ok) sink->ok = fwrite(chunk.data, 1, chunk.length, sink->file) == chunk.length;
      },
      &sink);
  sink.ok &= fclose(sink.file) == 0;
  if (!sink.ok) error = because("cannot write the module to " + path + " (set TMPDIR to a place"
                                " with more room)");
  return sink.ok;
}

std::string readText(const std::string &path) {
  std::string text;
  if (FILE *file = fopen(path.c_str(), "rb")) {
    char buffer[4096];
    while (size_t n = fread(buffer, 1, sizeof(buffer), file)) text.append(buffer, n);
    fclose(file);
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// Runs the interpreter to its end. Its standard output and error go to the messages file.
bool runChild(const std::string &python, const Scratch &scratch, std::string &error) {
  // Safe path: a module of the working directory must not stand in for one of the package's.
  std::vector<std::string> words = {python,          "-P",            "-m", "iree_flashattn.child",
                                    scratch.input(), scratch.output()};
  std::vector<char *> argv;
  for (std::string &word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  // The child has no use for the plugin.
  constexpr char kSkipped[] = "IREE_LOAD_PLUGINS=";
  std::vector<char *> env;
  for (char **entry = environ; *entry; ++entry) {
    if (strncmp(*entry, kSkipped, sizeof(kSkipped) - 1)) env.push_back(*entry);
  }
  env.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, scratch.messages().c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  errno = posix_spawn(&child, python.c_str(), &actions, nullptr, argv.data(), env.data());
  posix_spawn_file_actions_destroy(&actions);
  if (errno) return error = because("cannot run " + python), false;

  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return error = because("lost the process of " + python), false;
  }
  std::string messages = readText(scratch.messages());
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    if (!messages.empty()) fprintf(stderr, "%s\n", messages.c_str());
    return true;
  }
  if (WIFSIGNALED(status)) {
    error = "the rewriting process " + python + " was ended by signal " +
            std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) + ")";
  }
  if (!messages.empty()) error += (error.empty() ? "" : "\n") + messages;
  if (error.empty()) {
    error = "the rewriting process " + python + " ended with status " +
            std::to_string(WEXITSTATUS(status)) + " and no message";
  }
  return false;
}

// Moves the operations and attributes of `source` into `target`, in place of what is there.
void replaceContents(MlirOperation target, MlirOperation source) {
  MlirBlock body = mlirRegionGetFirstBlock(mlirOperationGetRegion(target, 0));
  MlirBlock fresh = mlirRegionGetFirstBlock(mlirOperationGetRegion(source, 0));
  for (MlirOperation op; (op = mlirBlockGetFirstOperation(body)).ptr;) {
    mlirOperationRemoveFromParent(op);
    mlirOperationDestroy(op);
  }
  for (MlirOperation op; (op = mlirBlockGetFirstOperation(fresh)).ptr;) {
    mlirOperationRemoveFromParent(op);
    mlirBlockAppendOwnedOperation(body, op);
  }
  for (intptr_t i = 0, n = mlirOperationGetNumAttributes(source); i < n; ++i) {
    MlirNamedAttribute named = mlirOperationGetAttribute(source, i);
    mlirOperationSetAttributeByName(target, mlirIdentifierStr(named.name), named.attribute);
  }
}

}  // namespace

bool rewriteInChild(MlirOperation module, std::string &error) {
  std::string python;
  if (!findInterpreter(python, error)) return false;
  Scratch scratch;
  if (!scratch.ok()) return error = because("cannot make the directory " + scratch.path()), false;
  if (!writeBytecode(module, scratch.input(), error)) return false;
  if (!runChild(python, scratch, error)) return false;

  // No output file: nothing was substituted, the module stays as it is.
  if (access(scratch.output().c_str(), F_OK) != 0) return true;
  std::string output = scratch.output();
  MlirModule rewritten =
      mlirModuleCreateParseFromFile(mlirOperationGetContext(module), {output.data(), output.size()});
  if (!rewritten.ptr) return error = "cannot read back the rewritten module", false;
  replaceContents(module, mlirModuleGetOperation(rewritten));
  mlirModuleDestroy(rewritten);
  return true;
}

}  // namespace flashattn
