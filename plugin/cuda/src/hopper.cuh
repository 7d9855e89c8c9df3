// Hopper's own instructions (sm_90a): barriers in shared memory, the tensor copy engine, warpgroup
// matrix products, register shares. One thin function per instruction, as in primitives.cuh.
#pragma once

#include <primitives.cuh>

namespace fa {

// ---- Barriers in shared memory ------------------------------------------------------------------

FA_DEVICE void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes barriers and ordinary stores visible to the copy engine and to wgmma.
FA_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
FA_DEVICE void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
FA_DEVICE void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Waits until the phase of the given parity has completed.
FA_DEVICE void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Named barriers of the block: `threads` counts those that wait and those that only arrive.
FA_DEVICE void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
FA_DEVICE void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int kRegisters>
FA_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
FA_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- The tensor copy engine ---------------------------------------------------------------------

// Rows of 16-bit elements, copied in boxes of 64 columns with the 128-byte swizzle; what lies
// outside is filled with zeros. 16-byte aligned, `row_bytes` too.
struct RowMap {
  const void* base;
  uint32_t columns, rows;
  uint64_t row_bytes;
  uint32_t box_rows;
};

constexpr int kMapBytes = 128;

// Tensor maps must lie in global memory and the launcher has none for us, so a module keeps some
// slots and a block borrows one for its life.
constexpr int kMapSlots = 1024, kMapsPerSlot = 2;
struct alignas(128) MapSlot {
  uint8_t map[kMapsPerSlot][kMapBytes];
};
static __device__ MapSlot map_slots[kMapSlots];
static __device__ uint32_t map_slot_taken[kMapSlots];

FA_DEVICE uint32_t take_map_slot() {
  uint32_t slot;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(slot));
  for (slot %= kMapSlots; atomicCAS(&map_slot_taken[slot], 0u, 1u) != 0u;)
    slot = (slot + 1) % kMapSlots;
  return slot;
}
FA_DEVICE void free_map_slot(uint32_t slot) {
  __threadfence();
  atomicExch(&map_slot_taken[slot], 0u);
}
FA_DEVICE void* map_in_slot(uint32_t slot, int index) { return map_slots[slot].map[index]; }

// One thread: the map's 128 bytes in shared memory, field by field.
FA_DEVICE void write_map(uint32_t at, const RowMap& rows) {
#pragma unroll
  for (int i = 0; i < kMapBytes; i += 16) store_shared(at + i, Word4{0, 0, 0, 0});
#define FA_REPLACE(FIELD, TYPE) "tensormap.replace.tile." FIELD ".shared::cta.b1024." TYPE " [%0], "
  asm volatile(FA_REPLACE("global_address", "b64") "%1;" ::"r"(at), "l"(rows.base) : "memory");
  asm volatile(FA_REPLACE("rank", "b32") "1;" ::"r"(at) : "memory");  // rank - 1
  asm volatile(FA_REPLACE("box_dim", "b32") "0, %1;" ::"r"(at), "r"(64) : "memory");
  asm volatile(FA_REPLACE("box_dim", "b32") "1, %1;" ::"r"(at), "r"(rows.box_rows) : "memory");
  asm volatile(FA_REPLACE("global_dim", "b32") "0, %1;" ::"r"(at), "r"(rows.columns) : "memory");
  asm volatile(FA_REPLACE("global_dim", "b32") "1, %1;" ::"r"(at), "r"(rows.rows) : "memory");
  asm volatile(FA_REPLACE("global_stride", "b64") "0, %1;" ::"r"(at), "l"(rows.row_bytes)
               : "memory");
  asm volatile(FA_REPLACE("element_stride", "b32") "0, %1;" ::"r"(at), "r"(1) : "memory");
  asm volatile(FA_REPLACE("element_stride", "b32") "1, %1;" ::"r"(at), "r"(1) : "memory");
  asm volatile(FA_REPLACE("elemtype", "b32") "1;" ::"r"(at) : "memory");         // u16
  asm volatile(FA_REPLACE("interleave_layout", "b32") "0;" ::"r"(at) : "memory");
  asm volatile(FA_REPLACE("swizzle_mode", "b32") "3;" ::"r"(at) : "memory");     // 128 bytes
  asm volatile(FA_REPLACE("fill_mode", "b32") "0;" ::"r"(at) : "memory");        // zeros
#undef FA_REPLACE
}

// The whole warp: the finished map to global memory, then fit for use by the copy engine.
FA_DEVICE void publish_map(void* slot, uint32_t at) {
  asm volatile(
      "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned"
      " [%0], [%1], 128;" ::"l"(__cvta_generic_to_global(slot)),
      "r"(at)
      : "memory");
  asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(slot) : "memory");
}

// One box to shared memory; its bytes count towards the barrier's expected ones.
FA_DEVICE void copy_box(uint32_t destination, const void* map, int column, int row,
                        uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}

// ---- Warpgroup matrix products ------------------------------------------------------------------

// Operands in shared memory with the 128-byte swizzle: `next_eight` bytes lead to the next 8 rows
// of the 128-byte-wide panel, `next_panel` to the next 64 columns (only used where the panel's
// columns are the operand's M or N).
FA_DEVICE uint64_t matrix_descriptor(uint32_t address, uint32_t next_panel, uint32_t next_eight) {
  return uint64_t(address >> 4 & 0x3fff) | uint64_t(next_panel >> 4) << 16 |
         uint64_t(next_eight >> 4) << 32 | uint64_t(1) << 62;
}

FA_DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FA_DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending>
FA_DEVICE void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
// Keeps the compiler from moving uses of accumulators across this point.
template <int kCount>
FA_DEVICE void pin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define FA_R4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FA_R16(i) FA_R4(i), FA_R4(i + 4), FA_R4(i + 8), FA_R4(i + 12)
#define FA_R24 FA_R16(0), FA_R4(16), FA_R4(20)
#define FA_R32 FA_R16(0), FA_R16(16)
#define FA_R40 FA_R32, FA_R4(32), FA_R4(36)
#define FA_R48 FA_R32, FA_R16(32)
#define FA_R64 FA_R48, FA_R16(48)
#define FA_R80 FA_R64, FA_R16(64)
#define FA_R88 FA_R80, FA_R4(80), FA_R4(84)
#define FA_R128 FA_R80, FA_R16(80), FA_R16(96), FA_R16(112)
#define FA_T(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9"
#define FA_T30 FA_T() ", " FA_T(1) ", " FA_T(2) ", "
#define FA_T60 FA_T30 FA_T(3) ", " FA_T(4) ", " FA_T(5) ", "
#define FA_N24 "{" FA_T() ", " FA_T(1) ", %20, %21, %22, %23}"
#define FA_N32 "{" FA_T30 "%30, %31}"
#define FA_N40 "{" FA_T30 FA_T(3) "}"
#define FA_N48 "{" FA_T30 FA_T(3) ", %40, %41, %42, %43, %44, %45, %46, %47}"
#define FA_N64 "{" FA_T60 "%60, %61, %62, %63}"
#define FA_N80 "{" FA_T60 FA_T(6) ", " FA_T(7) "}"
#define FA_N88 "{" FA_T60 FA_T(6) ", " FA_T(7) ", %80, %81, %82, %83, %84, %85, %86, %87}"
#define FA_N128                                                                              \
  "{" FA_T60 FA_T(6) ", " FA_T(7) ", " FA_T(8) ", " FA_T(9) ", " FA_T(10) ", " FA_T(11) ", " \
      "%120, %121, %122, %123, %124, %125, %126, %127}"

// d (64 x N) = or += A B^T, both K-major in shared memory.
template <class E, int kCount>
FA_DEVICE void product_shared(float (&d)[kCount], uint64_t a, uint64_t b, bool accumulate);
// d (64 x N) += A B, A in registers and the rows of B (keys x N) in shared memory.
template <class E, int kCount>
FA_DEVICE void product_registers(float (&d)[kCount], const uint32_t* a, uint64_t b);

#define FA_WGMMA(E, TYPE, N, COUNT, O0, O1, O2, O3, O4, O5)                                      \
  template <>                                                                                    \
  FA_DEVICE void product_shared<E, COUNT>(float(&d)[COUNT], uint64_t a, uint64_t b,              \
                                          bool accumulate) {                                     \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #O2 ", 0;\n"                               \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " " FA_N##COUNT \
                 ", %" #O0 ", %" #O1 ", p, 1, 1, 0, 0;\n}"                                       \
                 : FA_R##COUNT                                                                   \
                 : "l"(a), "l"(b), "r"(int(accumulate)));                                        \
  }                                                                                              \
  template <>                                                                                    \
  FA_DEVICE void product_registers<E, COUNT>(float(&d)[COUNT], const uint32_t* a, uint64_t b) {  \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " " FA_N##COUNT \
                 ", {%" #O0 ", %" #O1 ", %" #O2 ", %" #O3 "}, %" #O4 ", 1, 1, 1, 1;"             \
                 : FA_R##COUNT                                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                          \
  }
#define FA_WGMMA_SIZES(E, TYPE)                       \
  FA_WGMMA(E, TYPE, 48, 24, 24, 25, 26, 27, 28, 29)   \
  FA_WGMMA(E, TYPE, 64, 32, 32, 33, 34, 35, 36, 37)   \
  FA_WGMMA(E, TYPE, 80, 40, 40, 41, 42, 43, 44, 45)   \
  FA_WGMMA(E, TYPE, 96, 48, 48, 49, 50, 51, 52, 53)   \
  FA_WGMMA(E, TYPE, 128, 64, 64, 65, 66, 67, 68, 69)  \
  FA_WGMMA(E, TYPE, 160, 80, 80, 81, 82, 83, 84, 85)  \
  FA_WGMMA(E, TYPE, 176, 88, 88, 89, 90, 91, 92, 93)  \
  FA_WGMMA(E, TYPE, 256, 128, 128, 129, 130, 131, 132, 133)
FA_WGMMA_SIZES(F16, "f16")
FA_WGMMA_SIZES(BF16, "bf16")

}  // namespace fa
