// Runs workgroups of a kernel: a shared library for ctypes, and (FA_MAIN) a program for emulators.
// The build defines FA_KERNELS as a list of X(name) and links the kernel objects, whose symbols are
// hidden.
#include <stdint.h>

typedef void kernel_t(const void *q, const void *k, const void *v, const void *mask,
                      const void *bias, const float *sinks, void *o, void *weights,
                      const uint32_t *words, uint32_t x, uint32_t y, uint32_t z, void *scratch);

#define X(name) extern __attribute__((visibility("hidden"))) kernel_t name;
FA_KERNELS
#undef X

static const struct {
  const char *name;
  kernel_t *run;
} kernels[] = {
#define X(name) {#name, name},
    FA_KERNELS
#undef X
};

static int same(const char *a, const char *b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

__attribute__((visibility("default"))) void *kernel_named(const char *name) {
  for (unsigned i = 0; i < sizeof kernels / sizeof kernels[0]; ++i)
    if (same(kernels[i].name, name)) return (void *)kernels[i].run;
  return 0;
}

// Workgroups begin, begin + step, ... of the grid, x fastest; pointers are the 8 bindings in order.
__attribute__((visibility("default"))) void run_workgroups(void *kernel, void *const *p,
                                                           const uint32_t *words,
                                                           const uint32_t *grid, uint64_t begin,
                                                           uint64_t step, void *scratch) {
  uint64_t count = (uint64_t)grid[0] * grid[1] * grid[2];
  for (uint64_t i = begin; i < count; i += step)
    ((kernel_t *)kernel)(p[0], p[1], p[2], p[3], p[4], (const float *)p[5], p[6], p[7], words,
                         i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1], scratch);
}

#ifdef FA_MAIN
#include <stdio.h>
#include <stdlib.h>

// stdin: a 64-byte name; 8 sizes, grid (3) and scratch bytes as uint64; 32 words; the 8 buffers.
// stdout: buffers 6 and 7 after the run.
int main(void) {
  char name[64];
  uint64_t header[12];
  uint32_t words[32];
  if (fread(name, 64, 1, stdin) != 1 || fread(header, sizeof header, 1, stdin) != 1 ||
      fread(words, sizeof words, 1, stdin) != 1)
    return 2;
  void *p[8];
  for (int i = 0; i < 8; ++i) {
    p[i] = malloc(header[i] + 1);
    if (header[i] && fread(p[i], header[i], 1, stdin) != 1) return 3;
  }
  void *kernel = kernel_named(name);
  if (!kernel) return 4;
  uint32_t grid[3] = {header[8], header[9], header[10]};
  run_workgroups(kernel, p, words, grid, 0, 1, aligned_alloc(64, header[11]));
  for (int i = 6; i < 8; ++i) fwrite(p[i], header[i], 1, stdout);
  return 0;
}
#endif
