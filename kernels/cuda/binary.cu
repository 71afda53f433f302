#include <cstdint>
#include <type_traits>

#include "kernels/cuda/binary.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/each.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/loop_nest.cuh"

namespace flashflow::cuda {
namespace {

bool GivesBool(BinaryOp op) { return op >= BinaryOp::kEq; }

struct Bool {
  uint8_t byte;
};

// What an element is computed in.
__device__ __forceinline__ int32_t Widen(Bool x) { return x.byte != 0; }
__device__ __forceinline__ int32_t Widen(int32_t x) { return x; }
__device__ __forceinline__ int64_t Widen(int64_t x) { return x; }
__device__ __forceinline__ float Widen(float x) { return x; }
__device__ __forceinline__ float Widen(__half x) { return ToFloat(x); }
__device__ __forceinline__ float Widen(__nv_bfloat16 x) { return ToFloat(x); }

__device__ __forceinline__ bool IsNan(float x) { return isnan(x); }
template <class Integer>
__device__ __forceinline__ bool IsNan(Integer) {
  return false;
}

template <class W>
__device__ __forceinline__ bool Holds(BinaryOp op, W a, W b) {
  switch (op) {
    case BinaryOp::kEq:
      return a == b;
    case BinaryOp::kNe:
      return a != b;
    case BinaryOp::kLt:
      return a < b;
    case BinaryOp::kLe:
      return a <= b;
    case BinaryOp::kGt:
      return a > b;
    case BinaryOp::kGe:
      return a >= b;
    case BinaryOp::kAnd:
      return a != 0 && b != 0;
    default:
      return a != 0 || b != 0;
  }
}

template <class W>
__device__ __forceinline__ W Compute(BinaryOp op, W a, W b) {
  if (op == BinaryOp::kMaximum) return a > b || IsNan(a) ? a : b;
  if (op == BinaryOp::kMinimum) return a < b || IsNan(a) ? a : b;
  if constexpr (std::is_floating_point_v<W>) {
    switch (op) {
      case BinaryOp::kAdd:
        return a + b;
      case BinaryOp::kSub:
        return a - b;
      case BinaryOp::kMul:
        return a * b;
      case BinaryOp::kDiv:
        return a / b;
      default:
        return powf(a, b);
    }
  } else {
    using Unsigned = std::make_unsigned_t<W>;  // wraps around
    const auto p = static_cast<Unsigned>(a), q = static_cast<Unsigned>(b);
    return static_cast<W>(op == BinaryOp::kAdd ? p + q : op == BinaryOp::kSub ? p - q : p * q);
  }
}

template <class E>
__global__ void __launch_bounds__(kEachThreads)
    BinaryKernel(const LoopNest<2> nest, BinaryOp op, const E* a, const E* b, void* y) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  if (i >= nest.count) return;
  int64_t at[2];
  Offsets(nest, i, at);
  const auto p = Widen(a[at[0]]), q = Widen(b[at[1]]);
  if (op >= BinaryOp::kEq) {
    static_cast<uint8_t*>(y)[i] = Holds(op, p, q);
  } else if constexpr (std::is_integral_v<E>) {
    static_cast<E*>(y)[i] = Compute(op, p, q);
  } else if constexpr (!std::is_same_v<E, Bool>) {
    static_cast<E*>(y)[i] = FromFloat<E>(Compute(op, p, q));
  }
}

// Dense operands of whole 16 bytes, which a thread takes at a time.
template <class E>
__global__ void __launch_bounds__(kEachThreads)
    DenseBinaryKernel(BinaryOp op, int64_t chunks, const E* a, const E* b, E* y) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  constexpr int kCount = kPerVector<E>;
  const int64_t i = ThisElement();
  if (i >= chunks) return;
  float p[kCount], q[kCount];
  LoadChunk(a + i * kCount, p);
  LoadChunk(b + i * kCount, q);
#pragma unroll
  for (int e = 0; e < kCount; ++e) p[e] = Compute(op, p[e], q[e]);
  SaveChunk(y + i * kCount, p);
}

template <class E>
cudaError_t Launch(const BinaryArgs& args, cudaStream_t stream) {
  const LoopNest<2> nest = MakeLoopNest(args.shape, {args.a_strides, args.b_strides});
  if (nest.count > 0 && (args.a == nullptr || args.b == nullptr || args.y == nullptr)) return cudaErrorInvalidValue;
  if constexpr (!std::is_integral_v<E> && !std::is_same_v<E, Bool>) {
    const auto addresses =
        reinterpret_cast<uintptr_t>(args.a) | reinterpret_cast<uintptr_t>(args.b) | reinterpret_cast<uintptr_t>(args.y);
    const bool dense = nest.rank == 1 && nest.steps[0][0] == 1 && nest.steps[1][0] == 1;
    if (dense && !GivesBool(args.op) && addresses % 16 == 0 && nest.count % kPerVector<E> == 0) {
      const int64_t chunks = nest.count / kPerVector<E>;
      return LaunchEach(DenseBinaryKernel<E>, chunks, stream, args.op, chunks, static_cast<const E*>(args.a),
                        static_cast<const E*>(args.b), static_cast<E*>(args.y));
    }
  }
  return LaunchEach(BinaryKernel<E>, nest.count, stream, nest, args.op, static_cast<const E*>(args.a),
                    static_cast<const E*>(args.b), args.y);
}

}  // namespace

cudaError_t Binary(const BinaryArgs& args, cudaStream_t stream) {
  if (!IsValid(args.shape)) return cudaErrorInvalidValue;
  const bool logical = args.op == BinaryOp::kAnd || args.op == BinaryOp::kOr;
  const bool integer = args.dtype == Dtype::kS32 || args.dtype == Dtype::kS64;
  if ((logical && args.dtype != Dtype::kBool) || (args.dtype == Dtype::kBool && !GivesBool(args.op)) ||
      (integer && (args.op == BinaryOp::kDiv || args.op == BinaryOp::kPow))) {
    return cudaErrorNotSupported;
  }
  switch (args.dtype) {
    case Dtype::kF32:
      return Launch<float>(args, stream);
    case Dtype::kF16:
      return Launch<__half>(args, stream);
    case Dtype::kBf16:
      return Launch<__nv_bfloat16>(args, stream);
    case Dtype::kS32:
      return Launch<int32_t>(args, stream);
    case Dtype::kS64:
      return Launch<int64_t>(args, stream);
    case Dtype::kBool:
      return Launch<Bool>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
