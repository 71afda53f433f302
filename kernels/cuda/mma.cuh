// The tensor cores' and the copy units' instructions of compute capability 8.0, one PTX instruction a function. PTX ISA
// 9.0 is the reference.
//
// Of an 8x8 matrix of 16-bit elements, lane l holds elements (l / 4, 2 * (l % 4)) and the one to its right in a 32-bit
// register, the first in the lower half: "a fragment" below.
#ifndef KERNELS_CUDA_MMA_CUH_
#define KERNELS_CUDA_MMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace flashflow::cuda {

// A shared-memory address as PTX wants it.
__device__ __forceinline__ uint32_t ToShared(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// What products of Element are summed in.
template <class Element>
using SumOf = std::conditional_t<std::is_same_v<Element, int8_t>, int32_t, float>;

#define FF_MMA(TYPES, CONSTRAINT)                                                                  \
  asm("mma.sync.aligned." TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : CONSTRAINT(d[0]), CONSTRAINT(d[1]), CONSTRAINT(d[2]), CONSTRAINT(d[3])                     \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

// d += A B for 16 rows of A and 8 columns of B, over 32 bytes of each: 16 elements, or 32 of int8_t, whose pairs are
// then the "elements" of fragments. a: the fragments of A's quarters, top left, bottom left, top right, bottom right.
// b: those of the transposes of B's upper and lower half. d: elements (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2).
template <class Element>
__device__ __forceinline__ void Mma(SumOf<Element> (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<Element, int8_t>) {
    FF_MMA("m16n8k32.row.col.s32.s8.s8.s32", "+r");
  } else if constexpr (std::is_same_v<Element, __half>) {
    FF_MMA("m16n8k16.row.col.f32.f16.f16.f32", "+f");
  } else {
    static_assert(std::is_same_v<Element, __nv_bfloat16>);
    FF_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", "+f");
  }
}
#undef FF_MMA

// The fragments of four 8x8 matrices (of their transposes): lane l gives the shared address of row l % 8 of matrix
// l / 8, 16-byte aligned.
__device__ __forceinline__ void LoadFragments(uint32_t shared, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}
__device__ __forceinline__ void LoadTransposedFragments(uint32_t shared, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

// The fragment of the transpose.
__device__ __forceinline__ uint32_t Transpose(uint32_t fragment) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(fragment));
  return transposed;
}

// Copies 16 bytes to shared memory without waiting, or, where !valid, writes zeros and reads nothing. Both addresses
// are 16-byte aligned.
__device__ __forceinline__ void CopyAsync16(uint32_t shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
// Closes the group of this thread's copies since the last commit.
__device__ __forceinline__ void CopyCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of this thread's latest groups are under way.
template <int kPending>
__device__ __forceinline__ void CopyWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Rows of kHeadDim elements of 16 bits in shared memory. Eight rows' chunks of 16 bytes in a column must lie in
// different banks: where a row is of whole 128 bytes, chunks change places by the row, else rows are padded.
template <int kHeadDim>
struct TileLayout {
  static constexpr bool kSwizzled = kHeadDim % 64 == 0;
  static constexpr int kRowBytes = 2 * kHeadDim + (kSwizzled ? 0 : 16);
  static_assert(kHeadDim % 16 == 0 && (kSwizzled || kRowBytes / 16 % 2 == 1));

  static __device__ __forceinline__ uint32_t Offset(int row, int chunk) {
    return row * kRowBytes + (kSwizzled ? chunk ^ (row % 8) : chunk) * 16;
  }
};

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_MMA_CUH_
