// Hopper's warpgroup products (PTX ISA, wgmma; sm_90a) and the copies that feed them.
//
// Four warps multiply 64 rows by kTokens columns: warp w holds rows 16w + g and 16w + g + 8 in lane
// 4g + i, and of them columns 8j + 2i and 8j + 2i + 1 in values [4j, 4j + 4). The second operand
// lies in shared memory, rows of 128 bytes, 16-byte chunk c of row r at place c ^ (r % 8).
#pragma once

#include <cstdint>

namespace longshore::kernels::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define LS_WGMMA 1
#endif

__device__ __forceinline__ uint32_t shared_address(const void* data) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(data));
}

// 16 bytes, or 16 zeros where `from` is null.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, const void* valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
               "l"(from == nullptr ? valid : from), "r"(from == nullptr ? 0 : 16)
               : "memory");
}
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
               : "memory");
}
__device__ __forceinline__ void copy_async_4(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Barriers in shared memory that count arrivals: PTX ISA, mbarrier. A phase ends with the last of
// `count` arrivals; waiting for parity p waits for the end of a phase of that parity.
struct Barrier {
  uint64_t state;

  __device__ void init(int count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(count)
                 : "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  __device__ void wait(int parity) {
    asm volatile(
        "{.reg .pred done; again%=: mbarrier.try_wait.parity.shared.b64 done, [%0], %1; @!done bra "
        "again%=;}" ::"r"(shared_address(this)),
        "r"(parity)
        : "memory");
  }
};

#ifdef LS_WGMMA

template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// What this thread wrote to shared memory becomes visible to the warpgroup's products after the
// next barrier.
__device__ __forceinline__ void publish_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving a use of the sums above a wait.
template <int kCount>
__device__ __forceinline__ void hold(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

// Operands are in their registers before a product starts.
template <int kSteps>
__device__ __forceinline__ void settle(uint32_t (&operands)[kSteps][4]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(operands[step][i])::"memory");
  }
}

// Of rows of 128 swizzled bytes at `address`, which starts a multiple of 1024 plus the offset of
// the columns: PTX ISA, matrix descriptor. Groups of 8 rows are 1024 bytes apart.
__device__ __forceinline__ uint64_t swizzled_rows(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupStride = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kGroupStride | kUnused | ((address & 0x3ffffu) >> 4);
}

#define LS_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LS_F16(d, i) LS_F4(d, i), LS_F4(d, i + 4), LS_F4(d, i + 8), LS_F4(d, i + 12)
#define LS_D16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define LS_D32 LS_D16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LS_D64                                                                       \
  LS_D32                                                                             \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51" \
  ",%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

// d [64, 2 * kValues] += a [64, 16] fp16 in registers (laid out as mma.m16n8k16's) b [16, ..] fp16.
__device__ __forceinline__ void wgmma_f16(float (&d)[16], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {" LS_D16
               "}, {%16,%17,%18,%19}, %20, 1, 1, 1, 0;"
               : LS_F16(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_f16(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" LS_D32
               "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 0;"
               : LS_F16(d, 0), LS_F16(d, 16)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_f16(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" LS_D64
               "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 0;"
               : LS_F16(d, 0), LS_F16(d, 16), LS_F16(d, 32), LS_F16(d, 48)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// d [64, ..] = a [64, 32] b [32, ..], or += ; both e4m3 in shared memory.
#define LS_WGMMA_E4M3(shape, regs, a_place, b_place, ...)                                    \
  if constexpr (kAdd) {                                                                      \
    asm volatile("wgmma.mma_async.sync.aligned." shape ".f32.e4m3.e4m3 {" regs "}, " a_place \
                 ", " b_place ", 1, 1, 1;"                                                   \
                 : __VA_ARGS__                                                               \
                 : "l"(a), "l"(b));                                                          \
  } else {                                                                                   \
    asm volatile("wgmma.mma_async.sync.aligned." shape ".f32.e4m3.e4m3 {" regs "}, " a_place \
                 ", " b_place ", 0, 1, 1;"                                                   \
                 : __VA_ARGS__                                                               \
                 : "l"(a), "l"(b));                                                          \
  }
template <bool kAdd>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[16], uint64_t a, uint64_t b) {
  LS_WGMMA_E4M3("m64n32k32", LS_D16, "%16", "%17", LS_F16(d, 0))
}
template <bool kAdd>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[32], uint64_t a, uint64_t b) {
  LS_WGMMA_E4M3("m64n64k32", LS_D32, "%32", "%33", LS_F16(d, 0), LS_F16(d, 16))
}
template <bool kAdd>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[64], uint64_t a, uint64_t b) {
  LS_WGMMA_E4M3("m64n128k32", LS_D64, "%64", "%65", LS_F16(d, 0), LS_F16(d, 16), LS_F16(d, 32),
                LS_F16(d, 48))
}

#endif  // LS_WGMMA

}  // namespace longshore::kernels::cuda
