// Hopper's warpgroup matrix instruction, bf16 or f16 -> f32 and s8 -> s32, and the shared-memory layouts that it reads.
// Device code, sm_90a only.
//
// D[64, N] (+)= A[64, K] * B[K, N], K being 32 bytes (16 elements of bf16), is issued by the 128 threads of a warpgroup
// and runs asynchronously. Of D, thread t holds N/2 sums: with row = 16 * (t / 32) + (t % 32) / 4 and column = 2 * (t %
// 4), d[4j + i] is the element (row + 8 * (i / 2), 8j + column + i % 2).
//
// Tiles lie in shared memory as rows of 128 bytes (64 bf16), 1,024-byte aligned, in the copy engine's 128-byte swizzle:
// the 16-byte unit u of row r is stored at unit u ^ (r % 8). A wider tile is a sequence of such column blocks.
#ifndef KERNELS_CUDA_HOPPER_WGMMA_CUH_
#define KERNELS_CUDA_HOPPER_WGMMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace flashflow::cuda::hopper {

// Byte offset of byte `offset` of a tile in the 128-byte (64-byte) swizzle.
__device__ __forceinline__ uint32_t Swizzle128(uint32_t offset) { return offset ^ ((offset >> 3) & 0x70); }
__device__ __forceinline__ uint32_t Swizzle64(uint32_t offset) { return offset ^ ((offset >> 3) & 0x30); }

// Describes a 128-byte-swizzled tile at `shared`. Groups of 8 rows follow one another at 1,024 bytes; column blocks,
// for an operand whose rows run along K, at `block_bytes`.
__device__ __forceinline__ uint64_t TileDescriptor(uint32_t shared, uint32_t block_bytes = 16) {
  return (static_cast<uint64_t>(1) << 62) | (static_cast<uint64_t>(1024 >> 4) << 32) |
         (static_cast<uint64_t>(block_bytes >> 4) << 16) | ((shared & 0x3ffff) >> 4);
}

// Before the first product on registers that ordinary instructions wrote.
__device__ __forceinline__ void WgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void WgmmaCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most kPending committed groups of products are still running.
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving reads or writes of accumulators across this point.
template <int kCount>
__device__ __forceinline__ void KeepInRegisters(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void KeepInRegisters(int32_t (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// Eight operands each: their places in the instruction's text, and their constraints.
#define FF_P0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define FF_P1 "%8,%9,%10,%11,%12,%13,%14,%15"
#define FF_P2 "%16,%17,%18,%19,%20,%21,%22,%23"
#define FF_P3 "%24,%25,%26,%27,%28,%29,%30,%31"
#define FF_P4 "%32,%33,%34,%35,%36,%37,%38,%39"
#define FF_P5 "%40,%41,%42,%43,%44,%45,%46,%47"
#define FF_P6 "%48,%49,%50,%51,%52,%53,%54,%55"
#define FF_P7 "%56,%57,%58,%59,%60,%61,%62,%63"
#define FF_P8 "%64,%65,%66,%67,%68,%69,%70,%71"
#define FF_P9 "%72,%73,%74,%75,%76,%77,%78,%79"
#define FF_P10 "%80,%81,%82,%83,%84,%85,%86,%87"
#define FF_P11 "%88,%89,%90,%91,%92,%93,%94,%95"
#define FF_D(C, i)                                                                                                   \
  C(d[8 * i]), C(d[8 * i + 1]), C(d[8 * i + 2]), C(d[8 * i + 3]), C(d[8 * i + 4]), C(d[8 * i + 5]), C(d[8 * i + 6]), \
      C(d[8 * i + 7])

#define FF_P_4 "%0,%1,%2,%3"
#define FF_P_8 FF_P0
#define FF_P_16 FF_P0 "," FF_P1
#define FF_P_32 FF_P_16 "," FF_P2 "," FF_P3
#define FF_P_40 FF_P_32 "," FF_P4
#define FF_P_48 FF_P_40 "," FF_P5
#define FF_P_64 FF_P_32 "," FF_P4 "," FF_P5 "," FF_P6 "," FF_P7
#define FF_P_80 FF_P_64 "," FF_P8 "," FF_P9
#define FF_P_96 FF_P_80 "," FF_P10 "," FF_P11
#define FF_D_4(C) C(d[0]), C(d[1]), C(d[2]), C(d[3])
#define FF_D_8(C) FF_D(C, 0)
#define FF_D_16(C) FF_D(C, 0), FF_D(C, 1)
#define FF_D_32(C) FF_D_16(C), FF_D(C, 2), FF_D(C, 3)
#define FF_D_40(C) FF_D_32(C), FF_D(C, 4)
#define FF_D_48(C) FF_D_40(C), FF_D(C, 5)
#define FF_D_64(C) FF_D_32(C), FF_D(C, 4), FF_D(C, 5), FF_D(C, 6), FF_D(C, 7)
#define FF_D_80(C) FF_D_64(C), FF_D(C, 8), FF_D(C, 9)
#define FF_D_96(C) FF_D_80(C), FF_D(C, 10), FF_D(C, 11)

// d = (accumulate ? d : 0) + A * B, A and B in shared memory, the rows of both along K (A is [64, K], B is [N, K]), for
// the 32 bytes of K at the descriptors: 16 elements of bf16 or f16 with f32 sums, or 32 of int8_t with int32_t sums.
template <int kN, class Element = __nv_bfloat16>
struct WgmmaShared;

#define FF_FLOAT(x) "+f"(x)
#define FF_INTEGER(x) "+r"(x)
#define FF_WGMMA_SHARED_OF(N, COUNT, A, B, ACCUMULATE, ELEMENT, SUM, CONSTRAINT, TYPES, SIGNS)                       \
  template <>                                                                                                        \
  struct WgmmaShared<N, ELEMENT> {                                                                                   \
    static __device__ __forceinline__ void Run(SUM (&d)[COUNT], uint64_t a, uint64_t b, bool accumulate) {           \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ACCUMULATE ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N TYPES \
                   " {" FF_P_##COUNT "}, " A ", " B ", p" SIGNS ";\n}\n"                                             \
                   : FF_D_##COUNT(CONSTRAINT)                                                                        \
                   : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                                             \
    }                                                                                                                \
  };
#define FF_WGMMA_SHARED(N, COUNT, A, B, ACCUMULATE)                                                                   \
  FF_WGMMA_SHARED_OF(N, COUNT, A, B, ACCUMULATE, __nv_bfloat16, float, FF_FLOAT, "k16.f32.bf16.bf16", ", 1, 1, 0, 0") \
  FF_WGMMA_SHARED_OF(N, COUNT, A, B, ACCUMULATE, __half, float, FF_FLOAT, "k16.f32.f16.f16", ", 1, 1, 0, 0")          \
  FF_WGMMA_SHARED_OF(N, COUNT, A, B, ACCUMULATE, int8_t, int32_t, FF_INTEGER, "k32.s32.s8.s8", "")
FF_WGMMA_SHARED(8, 4, "%4", "%5", "%6")
FF_WGMMA_SHARED(16, 8, "%8", "%9", "%10")
FF_WGMMA_SHARED(32, 16, "%16", "%17", "%18")
FF_WGMMA_SHARED(64, 32, "%32", "%33", "%34")
FF_WGMMA_SHARED(128, 64, "%64", "%65", "%66")
FF_WGMMA_SHARED(160, 80, "%80", "%81", "%82")
FF_WGMMA_SHARED(192, 96, "%96", "%97", "%98")
#undef FF_WGMMA_SHARED
#undef FF_WGMMA_SHARED_OF

// d += A * B, A in registers and B in shared memory with its rows along N (B is [K, N]). With the d of a product above
// rounded in place, a[i] = bf16x2(d[8k + 2i], d[8k + 2i + 1]) is the A of its columns [16k, 16k + 16).
template <int kN>
struct WgmmaRegisters;

#define FF_WGMMA_REGISTERS(N, COUNT, A0, A1, A2, A3, B)                                                               \
  template <>                                                                                                         \
  struct WgmmaRegisters<N> {                                                                                          \
    static __device__ __forceinline__ void Run(float (&d)[COUNT], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, \
                                               uint64_t b) {                                                          \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" FF_P_##COUNT                          \
                   "}, {" A0 "," A1 "," A2 "," A3 "}, " B ", 1, 1, 1, 1;\n"                                           \
                   : FF_D_##COUNT(FF_FLOAT)                                                                           \
                   : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));                                                     \
    }                                                                                                                 \
  };
FF_WGMMA_REGISTERS(64, 32, "%32", "%33", "%34", "%35", "%36")
FF_WGMMA_REGISTERS(80, 40, "%40", "%41", "%42", "%43", "%44")
FF_WGMMA_REGISTERS(96, 48, "%48", "%49", "%50", "%51", "%52")
FF_WGMMA_REGISTERS(128, 64, "%64", "%65", "%66", "%67", "%68")
#undef FF_WGMMA_REGISTERS

#undef FF_P0
#undef FF_P1
#undef FF_P2
#undef FF_P3
#undef FF_P4
#undef FF_P5
#undef FF_P6
#undef FF_P7
#undef FF_P8
#undef FF_P9
#undef FF_P10
#undef FF_P11
#undef FF_P_4
#undef FF_P_8
#undef FF_P_16
#undef FF_P_32
#undef FF_P_40
#undef FF_P_48
#undef FF_P_64
#undef FF_P_80
#undef FF_P_96
#undef FF_FLOAT
#undef FF_INTEGER
#undef FF_D
#undef FF_D_4
#undef FF_D_8
#undef FF_D_16
#undef FF_D_32
#undef FF_D_40
#undef FF_D_48
#undef FF_D_64
#undef FF_D_80
#undef FF_D_96

// Two floats rounded to nearest-even, `low` in the lower half.
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Stores (loads) four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and
// register i holds, of matrix i, the elements (lane / 4, 2 * (lane % 4)) and the one to its right.
__device__ __forceinline__ void StoreMatrix4(uint32_t shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(r0), "r"(r1),
               "r"(r2), "r"(r3)
               : "memory");
}
__device__ __forceinline__ void LoadMatrix4(uint32_t shared, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

}  // namespace flashflow::cuda::hopper

#endif  // KERNELS_CUDA_HOPPER_WGMMA_CUH_
