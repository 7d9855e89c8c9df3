// A CUDA block on one CPU thread: every GPU thread is a fiber, and instructions that work for a
// whole warp or block are points where fibers meet. A test double; nothing here ships.
//
// It is strict on purpose. Shared memory starts as NaN, asynchronous copies and products take
// effect only when they are waited for, lanes that meet in different instructions are an error,
// and so is a block whose fibers all wait.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace fa::machine {

constexpr uint32_t kSharedBase = 4096, kSharedBytes = 232448 + 1024;

// Fibers that meet: the last to arrive does the work of all.
struct Meeting {
  int expected = 0, arrived = 0;
  uint64_t generation = 0;
  const char* instruction = nullptr;
  std::vector<void*> arguments;
};

struct TransactionBarrier {
  int expected = 0, pending = 0;
  int64_t bytes = 0;
  uint32_t phase = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  // Asynchronous work in commit groups: oldest first, the open one last.
  std::deque<std::vector<std::function<void()>>> copies{1}, products{1};
};

struct Block {
  uint32_t index = 0, count = 1;
  int threads = 0, current = 0;
  uint64_t progress = 0;
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps;
  std::map<int, Meeting> named;
  std::map<uint32_t, TransactionBarrier> barriers;
  std::vector<uint8_t> shared;
  ucontext_t scheduler;
  std::string error;
  std::function<void()> kernel;
};

inline Block* block = nullptr;

inline Fiber& self() { return block->fibers[block->current]; }
inline void yield() { swapcontext(&self().context, &block->scheduler); }

// Ends the launch with an error; fibers are abandoned where they stand.
inline void note(const char* what) {
  if (!block->error.empty()) return;
  block->error = std::string(what) + " (block " + std::to_string(block->index) + ", thread " +
                 std::to_string(block->current) + ")";
}
[[noreturn]] inline void fail(const char* what) {
  note(what);
  for (;;) yield();
}

inline void meet(Meeting& meeting, int index, int expected, const char* instruction,
                 void* argument, const std::function<void(std::vector<void*>&)>& work) {
  if (meeting.arrived == 0) {
    meeting.instruction = instruction;
    meeting.arguments.assign(expected, nullptr);
  } else if (std::strcmp(meeting.instruction, instruction) != 0) {
    fail("lanes of a warp diverge at a collective instruction");
  }
  meeting.arguments[index] = argument;
  const uint64_t generation = meeting.generation;
  if (++meeting.arrived == expected) {
    if (work) work(meeting.arguments);
    meeting.arrived = 0;
    ++meeting.generation;
    ++block->progress;
    return;
  }
  while (meeting.generation == generation) yield();
}

inline void meet_warp(const char* instruction, void* argument = nullptr,
                      const std::function<void(std::vector<void*>&)>& work = nullptr) {
  meet(block->warps[block->current / 32], block->current % 32, 32, instruction, argument, work);
}

// A named barrier: `wait` or only arrive.
inline void meet_named(int id, int threads, bool wait) {
  Meeting& meeting = block->named[id];
  if (meeting.arrived != 0 && meeting.expected != threads) fail("named barrier with two counts");
  meeting.expected = threads;
  const uint64_t generation = meeting.generation;
  if (++meeting.arrived == threads) {
    meeting.arrived = 0;
    ++meeting.generation;
    ++block->progress;
    return;
  }
  while (wait && meeting.generation == generation) yield();
}

inline uint8_t* shared_at(uint32_t address, uint32_t bytes) {
  if (address < kSharedBase || address + bytes > kSharedBase + block->shared.size())
    fail("shared memory out of bounds");
  if (address % (bytes > 16 ? 16 : bytes) != 0) fail("shared memory access is not aligned");
  return block->shared.data() + (address - kSharedBase);
}

inline void run_groups(std::deque<std::vector<std::function<void()>>>& groups, size_t pending) {
  while (groups.size() > pending + 1) {  // the open group does not count
    for (auto& work : groups.front()) work();
    groups.pop_front();
    ++block->progress;
  }
}

inline void start_fiber() {
  block->kernel();
  if (self().copies.size() > 1 || !self().copies.back().empty()) {
    for (auto& group : self().copies)
      if (!group.empty()) fail("thread ends with asynchronous copies in flight");
  }
  self().done = true;
  ++block->progress;
  yield();
}

// Runs one block; `shared_bytes` is what the launch asks for. Gives the error, empty if none.
inline std::string run_block(uint32_t index, uint32_t count, int threads, uint32_t shared_bytes,
                      std::function<void()> kernel) {
  constexpr size_t kStack = 256 << 10;
  Block instance;
  block = &instance;
  block->index = index;
  block->count = count;
  block->threads = threads;
  block->kernel = std::move(kernel);
  block->shared.assign(shared_bytes, 0xff);
  block->warps.resize(threads / 32);
  block->fibers.resize(threads);
  for (Fiber& fiber : block->fibers) {
    fiber.stack.reset(new char[kStack]);
    getcontext(&fiber.context);
    fiber.context.uc_stack = {fiber.stack.get(), 0, kStack};
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start_fiber, 0);
  }
  for (int left = threads; left > 0;) {
    const uint64_t before = block->progress;
    left = 0;
    for (int i = 0; i < threads; ++i) {
      if (block->fibers[i].done) continue;
      block->current = i;
      swapcontext(&block->scheduler, &block->fibers[i].context);
      if (!block->error.empty()) return block->error;
      left += !block->fibers[i].done;
    }
    if (left > 0 && before == block->progress) {
      note("deadlock: every thread waits");
      return block->error;
    }
  }
  for (auto& [id, meeting] : block->named)
    if (meeting.arrived != 0) note("block ends with threads arrived at a named barrier");
  return block->error;
}

}  // namespace fa::machine
