// AMX: whether this process may use tile registers of bf16. Linux gives a process 8 KB more of state
// for each thread only when it asks; until then the first tile instruction ends it.
#ifndef FLASHATTN_TILES_GRANTED_H_
#define FLASHATTN_TILES_GRANTED_H_

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ask_for_tiles(void) {
  unsigned a, b, c, d;
  const unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;  // of leaf 7, in edx
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  if ((d & (amx_bf16 | amx_tile)) != (amx_bf16 | amx_tile)) return 0;
  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): for all threads of the process, now and
  // later. Refused by a kernel without AMX, and by one that was told to keep it off.
  const long request = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

static inline int tiles_granted(void) {
  static int answer;  // 0: not asked yet
  int known = __atomic_load_n(&answer, __ATOMIC_RELAXED);
  if (!known) {
    known = ask_for_tiles() ? 1 : -1;
    __atomic_store_n(&answer, known, __ATOMIC_RELAXED);
  }
  return known > 0;
}
#else
static inline int tiles_granted(void) { return 0; }
#endif

#endif  // FLASHATTN_TILES_GRANTED_H_
