// Runs workgroups of a kernel: a shared library for ctypes, and (FA_MAIN) a program for emulators.
// The build defines FA_KERNELS as a list of X(name) and links the kernel objects, whose symbols are
// hidden.
#include <stdint.h>

typedef void kernel_t(const void *q, const void *k, const void *v, const void *mask,
                      const void *bias, const float *sinks, void *o, void *weights,
                      float *lse, const uint32_t *words, uint32_t x, uint32_t y, uint32_t z, void *scratch);

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

// Workgroups begin, begin + step, ... of the grid, x fastest; pointers are those of the signature.
__attribute__((visibility("default"))) void run_workgroups(void *kernel, void *const *p,
                                                           const uint32_t *words,
                                                           const uint32_t *grid, uint64_t begin,
                                                           uint64_t step, void *scratch) {
  uint64_t count = (uint64_t)grid[0] * grid[1] * grid[2];
  for (uint64_t i = begin; i < count; i += step)
    ((kernel_t *)kernel)(p[0], p[1], p[2], p[3], p[4], (const float *)p[5], p[6], p[7], (float *)p[8], words,
                         i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1], scratch);
}

#ifdef FA_MAIN
// A program without a C library, so that a cross build needs none. aarch64 Linux.
static long syscall6(long n, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}
static void *allocate(uint64_t size) {  // mmap: private, anonymous
  return (void *)syscall6(222, 0, (long)size + 1, 3, 0x22, -1, 0);
}
static void stop(int code) { syscall6(94, code, 0, 0, 0, 0, 0); }
static void release(void *p, uint64_t size) { syscall6(215, (long)p, (long)size + 1, 0, 0, 0, 0); }
static void transfer(long call, int file, void *data, uint64_t size, int end_of_input) {
  for (char *at = data; size;) {
    long done = syscall6(call, file, (long)at, (long)size, 0, 0, 0);
    if (done <= 0) stop(done == 0 && at == data ? end_of_input : 3);
    at += done;
    size -= (uint64_t)done;
  }
}

// stdin, any number of times: a 64-byte name; 9 sizes, grid (3) and scratch bytes as uint64; 32
// words; the 9 buffers. stdout, as often: buffers 6 to 8 after the run.
void _start(void) {
  for (;;) {
    char name[64];
    uint64_t header[13];
    uint32_t words[32];
    void *p[9];
    transfer(63, 0, name, sizeof name, 0);
    transfer(63, 0, header, sizeof header, 3);
    transfer(63, 0, words, sizeof words, 3);
    for (int i = 0; i < 9; ++i) transfer(63, 0, p[i] = allocate(header[i]), header[i], 3);
    void *kernel = kernel_named(name);
    if (!kernel) stop(4);
    uint32_t grid[3] = {(uint32_t)header[9], (uint32_t)header[10], (uint32_t)header[11]};
    void *scratch = allocate(header[12]);
    run_workgroups(kernel, p, words, grid, 0, 1, scratch);
    release(scratch, header[12]);
    for (int i = 6; i < 9; ++i) transfer(64, 1, p[i], header[i], 3);
    for (int i = 0; i < 9; ++i) release(p[i], header[i]);
  }
}
#endif
