// The bridge of the native iree-compile: a child Python process that gets the module as bytecode in
// one file and leaves the rewritten one in another. Files, because both sides map them instead of
// copying (a model may carry gigabytes of weights); pipes would have to be read into memory first.
// They have no name (only /proc/self/fd/N), so that nothing is left behind however the compiler ends.

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "bridge.h"
#include "interpreter.h"

extern char **environ;

namespace flashattn {
namespace {

constexpr int kChildInput = 3, kChildOutput = 4;

// A temporary file without a name, closed at the end of the scope. Its number is above those that
// the child finds its files at.
class Unnamed {
 public:
  Unnamed() {
    const char *folder = getenv("TMPDIR");
    name_ = std::string(folder && *folder ? folder : "/tmp") + "/iree-flashattn-XXXXXX";
    int fd = mkostemp(name_.data(), O_CLOEXEC);
    if (fd < 0) return;
    unlink(name_.c_str());
    fd_ = fcntl(fd, F_DUPFD_CLOEXEC, kChildOutput + 1);
    close(fd);
  }
  ~Unnamed() { if (fd_ >= 0) close(fd_); }
  bool ok() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  const std::string &name() const { return name_; }  // what it was called, for messages
  off_t size() const { return lseek(fd_, 0, SEEK_END); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  std::string name_;
  int fd_ = -1;
};

std::string because(const std::string &what) { return what + ": " + strerror(errno); }

bool writeBytecode(MlirOperation module, const Unnamed &file, std::string &error) {
  struct Sink { FILE *file; bool ok; } sink = {fdopen(dup(file.fd()), "wb"), true};
  if (!sink.file) return error = because("cannot write " + file.name()), false;
  mlirOperationWriteBytecode(
      module,
      [](MlirStringRef chunk, void *user_data) {
        auto *sink = static_cast<Sink *>(user_data);
        if (sink->ok) sink->ok = fwrite(chunk.data, 1, chunk.length, sink->file) == chunk.length;
      },
      &sink);
  sink.ok &= fclose(sink.file) == 0;
  if (!sink.ok) {
    error = because("cannot write the module to " + file.name()) +
            " (set TMPDIR to a folder with more room)";
  }
  return sink.ok;
}

std::string readText(const Unnamed &file) {
  std::string text(static_cast<size_t>(file.size()), '\0');
  ssize_t length = pread(file.fd(), text.data(), text.size(), 0);
  text.resize(length > 0 ? static_cast<size_t>(length) : 0);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// Runs the interpreter to its end. Its standard output and error are its messages.
bool runChild(const std::string &python, const Unnamed &input, const Unnamed &output,
              const Unnamed &messages, std::string &error) {
  // -P: a module of the working directory must not stand in for one of the package's.
  std::vector<std::string> words = {python, "-P", "-m", "iree_flashattn.child",
                                    "/proc/self/fd/" + std::to_string(kChildInput),
                                    "/proc/self/fd/" + std::to_string(kChildOutput)};
  std::vector<char *> argv;
  for (std::string &word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  // The child has no use for the plugin, nor for other people's.
  constexpr char kSkipped[] = "IREE_LOAD_PLUGINS=";
  std::vector<char *> env;
  for (char **entry = environ; *entry; ++entry) {
    if (strncmp(*entry, kSkipped, sizeof(kSkipped) - 1)) env.push_back(*entry);
  }
  env.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, messages.fd(), 1);
  posix_spawn_file_actions_adddup2(&actions, messages.fd(), 2);
  posix_spawn_file_actions_adddup2(&actions, input.fd(), kChildInput);
  posix_spawn_file_actions_adddup2(&actions, output.fd(), kChildOutput);
  pid_t child = 0;
  int failure = posix_spawn(&child, python.c_str(), &actions, nullptr, argv.data(), env.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failure) return error = "cannot run " + python + ": " + strerror(failure), false;

  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return error = because("lost the process of " + python), false;
  }
  std::string said = readText(messages);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    if (!said.empty()) fprintf(stderr, "%s\n", said.c_str());
    return true;
  }
  if (WIFSIGNALED(status)) {
    error = "the rewriting process " + python + " was ended by signal " +
            std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) + ")";
  }
  if (!said.empty()) error += (error.empty() ? "" : "\n") + said;
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
  Unnamed input, output, messages;
  if (!input.ok() || !output.ok() || !messages.ok()) {
    return error = because("cannot make the temporary file " + input.name()), false;
  }
  if (!writeBytecode(module, input, error)) return false;
  if (!runChild(python, input, output, messages, error)) return false;

  if (output.size() == 0) return true;  // nothing was substituted, the module stays as it is
  std::string path = output.path();
  MlirModule rewritten =
      mlirModuleCreateParseFromFile(mlirOperationGetContext(module), {path.data(), path.size()});
  if (!rewritten.ptr) return error = "cannot read back the rewritten module", false;
  replaceContents(module, mlirModuleGetOperation(rewritten));
  mlirModuleDestroy(rewritten);
  return true;
}

}  // namespace flashattn
