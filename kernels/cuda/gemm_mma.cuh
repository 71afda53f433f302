// The matrix instruction of sm_80 and up for all element types, a warp's: 16 rows of `a` times 8 rows of `w`, over 32
// bytes of each.
#ifndef KERNELS_CUDA_GEMM_MMA_CUH_
#define KERNELS_CUDA_GEMM_MMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace flashflow::cuda {

// What products of Element are summed in, and what a product of s8 is rounded to where it is not f32.
template <class Element>
using SumOf = std::conditional_t<std::is_same_v<Element, int8_t>, int32_t, float>;
template <class Element>
using NarrowOf = std::conditional_t<std::is_same_v<Element, int8_t>, __nv_bfloat16, Element>;

#define FF_MMA(TYPES, CONSTRAINT)                                                                  \
  asm("mma.sync.aligned." TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : CONSTRAINT(d[0]), CONSTRAINT(d[1]), CONSTRAINT(d[2]), CONSTRAINT(d[3])                     \
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))

// d += a * w. Lane l holds, of rows l / 4 and l / 4 + 8, bytes 4 (l % 4) (a0, a1) and 16 + 4 (l % 4) (a2, a3), and the
// same bytes of row l / 4 of w (b0, b1); of d, columns 2 (l % 4) and the next of row l / 4 (d[0], d[1]) and of that
// + 8.
template <class Element>
__device__ __forceinline__ void Mma(SumOf<Element> (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<Element, int8_t>) {
    FF_MMA("m16n8k32.row.col.s32.s8.s8.s32", "+r");
  } else if constexpr (std::is_same_v<Element, __half>) {
    FF_MMA("m16n8k16.row.col.f32.f16.f16.f32", "+f");
  } else {
    FF_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", "+f");
  }
}
#undef FF_MMA

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_GEMM_MMA_CUH_
