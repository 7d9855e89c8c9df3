// A program: the runtime extension, whole, with two kernels of its own in place of the real ones (the
// test writes kernels.inc). fa_own wants scratch memory of the extension, fa_module the module's.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(x) \
  if (!(x)) printf("line %d: %s\n", __LINE__, #x), exit(1)

static int live;   // allocations that are not freed
static int empty;  // no memory left

static int counted_memalign(void **to, size_t align, size_t size) {
  if (empty) return 12;
  __atomic_fetch_add(&live, 1, __ATOMIC_SEQ_CST);
  return posix_memalign(to, align, size);
}
static void counted_free(void *memory) {
  __atomic_fetch_sub(&live, 1, __ATOMIC_SEQ_CST);
  memset(memory, 0xdd, 64);
  free(memory);
}
#define posix_memalign counted_memalign
#define free counted_free
#include "plugin.c"
#undef posix_memalign
#undef free

enum { kOwn = 1 << 20, kModule = 64 };

static void note(void *o, void *scratch, size_t size) {
  memset(scratch, 0xff, size);
  *(void **)o = scratch;
}
#define KERNEL(name, size)                                                                     \
  void name(const void *q, const void *k, const void *v, const void *mask, const void *bias,   \
            const float *sinks, void *o, void *weights, float *lse, const uint32_t *words,     \
            uint32_t x, uint32_t y, uint32_t z, void *scratch) {                               \
    (void)q, (void)k, (void)v, (void)mask, (void)bias, (void)sinks, (void)weights, (void)lse;  \
    (void)words, (void)x, (void)y, (void)z;                                                    \
    note(o, scratch, size);                                                                    \
  }
KERNEL(fa_own, kOwn)
KERNEL(fa_module, kModule)

// The scratch memory that a call through the interface got; NULL: the call failed.
static _Alignas(64) char of_module[kModule];
static void *scratch_of(const char *name) {
  void *function = NULL, *context = NULL, *got = NULL;
  const plugin_resolve_params params = {1, &name, &function, &context};
  uint32_t resolution;
  EXPECT(plugin.resolve(NULL, &params, &resolution) == PLUGIN_OK);
  const arguments a = {.o = &got, .scratch = of_module};
  const int status = ((plugin_import)function)(&a, context, NULL);
  EXPECT((status == 0) == (got != NULL));
  return got;
}

static void open_plugin(void) {
  void *self;
  EXPECT(plugin.load(NULL, 0, NULL, &self) == PLUGIN_OK);
}

static pthread_barrier_t together;
static void *worker(void *argument) {
  (void)argument;
  void *first = scratch_of("fa_own");
  pthread_barrier_wait(&together);  // all have theirs
  EXPECT(first == scratch_of("fa_own"));
  pthread_barrier_wait(&together);  // the main thread goes on
  pthread_barrier_wait(&together);
  return first;
}

static void *without_memory(void *argument) {
  (void)argument;
  return scratch_of("fa_own");
}

int main(void) {
  pthread_t threads[2];
  void *got[3];
  open_plugin();
  EXPECT(scratch_of("fa_module") == of_module && live == 0);
  got[2] = scratch_of("fa_own");
  EXPECT(got[2] && got[2] != of_module && (uintptr_t)got[2] % 64 == 0);
  EXPECT(scratch_of("fa_own") == got[2] && live == 1);

  // Every thread has its own, until it ends.
  pthread_barrier_init(&together, NULL, 3);
  for (int i = 0; i < 2; ++i) pthread_create(&threads[i], NULL, worker, NULL);
  for (int i = 0; i < 3; ++i) pthread_barrier_wait(&together);
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], &got[i]);
  EXPECT(got[0] && got[1] && got[0] != got[1] && got[0] != got[2] && got[1] != got[2]);
  EXPECT(live == 1);

  // A call without memory fails, and no other.
  empty = 1;
  pthread_create(&threads[0], NULL, without_memory, NULL);
  pthread_join(threads[0], &got[0]);
  EXPECT(!got[0] && scratch_of("fa_own") == got[2]);
  empty = 0;

  // The last user that leaves takes all memory along, also that of threads which outlive it.
  open_plugin();
  plugin.unload(NULL);
  EXPECT(scratch_of("fa_own") == got[2] && live == 1);
  for (int i = 0; i < 2; ++i) pthread_create(&threads[i], NULL, worker, NULL);
  for (int i = 0; i < 2; ++i) pthread_barrier_wait(&together);
  EXPECT(live == 3);
  plugin.unload(NULL);
  EXPECT(live == 0);
  pthread_barrier_wait(&together);
  for (int i = 0; i < 2; ++i) pthread_join(threads[i], NULL);
  EXPECT(live == 0);

  // And it may come back.
  open_plugin();
  EXPECT(scratch_of("fa_own") && live == 1);
  plugin.unload(NULL);
  EXPECT(live == 0);
  puts("passed");
  return 0;
}
