#include "kernels/cuda/testing/host_graph_kernels.h"

#include <algorithm>
#include <cstdint>

namespace flashflow::cuda::testing {
namespace {

// Whether the elements that a strided operand has for the shape's indices lie in the memory. No step is negative.
bool HoldsStrided(const HostMemory& memory, const void* data, int element_bytes, const Shape& shape,
                  const Strides& strides, int64_t trailing = 1) {
  int64_t last = trailing - 1;
  for (int i = 0; i < shape.rank; ++i) {
    if (shape.dims[i] == 0) return true;
    last += (shape.dims[i] - 1) * strides.steps[i];
  }
  return memory.Holds(data, (last + 1) * element_bytes);
}

int64_t Count(const Shape& shape) {
  int64_t count = 1;
  for (int i = 0; i < shape.rank; ++i) count *= shape.dims[i];
  return count;
}

template <class Args>
cudaError_t Run(bool inside, cudaError_t (*function)(const Args&, cudaStream_t), const Args& args) {
  return inside ? function(args, nullptr) : cudaErrorIllegalAddress;
}

}  // namespace

cudaError_t Refuse(const UnaryArgs& args) {
  return (args.op == UnaryOp::kNot) == (args.dtype == Dtype::kBool) ? cudaSuccess : cudaErrorNotSupported;
}
cudaError_t Refuse(const BinaryArgs& args) {
  const bool integer = args.dtype == Dtype::kS32 || args.dtype == Dtype::kS64;
  return integer && (args.op == BinaryOp::kDiv || args.op == BinaryOp::kPow) ? cudaErrorNotSupported : cudaSuccess;
}
cudaError_t Refuse(const MaskedAttentionArgs& args) {
  return std::max(args.head_dim, args.value_dim) > kMaxMaskedHeadDim ? cudaErrorNotSupported : cudaSuccess;
}
cudaError_t Refuse(const RopeArgs& args) { return args.channels % 2 != 0 ? cudaErrorNotSupported : cudaSuccess; }

cudaError_t Compute(const HostMemory& memory, const UnaryArgs& args) {
  const int64_t bytes = args.count * ElementBytes(args.dtype);
  return Run(memory.Holds(args.x, bytes) && memory.Holds(args.y, bytes), host::Unary, args);
}

cudaError_t Compute(const HostMemory& memory, const BinaryArgs& args) {
  const int bytes = ElementBytes(args.dtype);
  return Run(HoldsStrided(memory, args.a, bytes, args.shape, args.a_strides) &&
                 HoldsStrided(memory, args.b, bytes, args.shape, args.b_strides) &&
                 memory.Holds(args.y, Count(args.shape) * (args.op >= BinaryOp::kEq ? 1 : bytes)),
             host::Binary, args);
}

cudaError_t Compute(const HostMemory& memory, const CastArgs& args) {
  return Run(memory.Holds(args.x, args.count * ElementBytes(args.from)) &&
                 memory.Holds(args.y, args.count * ElementBytes(args.to)),
             host::Cast, args);
}

cudaError_t Compute(const HostMemory& memory, const FillArgs& args) {
  return Run(memory.Holds(args.y, args.count * args.element_bytes), host::Fill, args);
}

cudaError_t Compute(const HostMemory& memory, const IotaArgs& args) {
  return Run(memory.Holds(args.y, args.outer * args.axis * args.inner * ElementBytes(args.dtype)), host::Iota, args);
}

cudaError_t Compute(const HostMemory& memory, const CopyArgs& args) {
  return Run(HoldsStrided(memory, args.from, args.element_bytes, args.shape, args.from_strides) &&
                 HoldsStrided(memory, args.to, args.element_bytes, args.shape, args.to_strides),
             host::StridedCopy, args);
}

cudaError_t Compute(const HostMemory& memory, const SelectArgs& args) {
  return Run(HoldsStrided(memory, args.condition, 1, args.shape, args.condition_strides) &&
                 HoldsStrided(memory, args.a, args.element_bytes, args.shape, args.a_strides) &&
                 HoldsStrided(memory, args.b, args.element_bytes, args.shape, args.b_strides) &&
                 memory.Holds(args.y, Count(args.shape) * args.element_bytes),
             host::Select, args);
}

cudaError_t Compute(const HostMemory& memory, const IndexArgs& args) {
  int64_t runs = 1;
  bool inside = memory.Holds(args.y, Count(args.shape) * args.run_bytes);
  for (int i = 0; i < args.axes; ++i) {
    const AxisIndex& index = args.indices[i];
    runs *= index.size;
    inside = inside && HoldsStrided(memory, index.data, index.wide ? 8 : 4, args.shape, index.strides);
  }
  return Run(inside && memory.Holds(args.x, runs * args.run_bytes), host::Index, args);
}

cudaError_t Compute(const HostMemory& memory, const CumsumArgs& args) {
  const int64_t bytes = args.outer * args.axis * args.inner * ElementBytes(args.dtype);
  return Run(memory.Holds(args.x, bytes) && memory.Holds(args.y, bytes), host::Cumsum, args);
}

cudaError_t Compute(const HostMemory& memory, const ReduceArgs& args) {
  Shape shape = args.kept;
  Strides strides = args.kept_strides;
  for (int i = 0; i < args.reduced.rank && shape.rank < kMaxDims; ++i) {
    shape.dims[shape.rank] = args.reduced.dims[i];
    strides.steps[shape.rank++] = args.reduced_strides.steps[i];
  }
  return Run(HoldsStrided(memory, args.x, ElementBytes(args.dtype), shape, strides) &&
                 memory.Holds(args.y, Count(args.kept) * ElementBytes(args.dtype)),
             host::Reduce, args);
}

cudaError_t Compute(const HostMemory& memory, const SoftmaxColumnsArgs& args) {
  const int64_t bytes = args.outer * args.axis * args.inner * ElementBytes(args.dtype);
  return Run(memory.Holds(args.x, bytes) && memory.Holds(args.y, bytes), host::SoftmaxColumns, args);
}

cudaError_t Compute(const HostMemory& memory, const MatMulArgs& args) {
  const int bytes = ElementBytes(args.dtype);
  const int64_t m = args.m, n = args.n, k = args.k;
  const int64_t b_elements = (k - 1) * args.b_k_stride + (n - 1) * args.b_n_stride + 1;
  const bool empty = m == 0 || n == 0 || k == 0;
  return Run((empty || (HoldsStrided(memory, args.a, bytes, args.batch, args.a_strides, m * k) &&
                        HoldsStrided(memory, args.b, bytes, args.batch, args.b_strides, b_elements))) &&
                 (args.bias == nullptr || memory.Holds(args.bias, n * 4)) &&
                 memory.Holds(args.y, Count(args.batch) * m * n * bytes),
             host::MatMul, args);
}

cudaError_t Compute(const HostMemory& memory, const MaskedAttentionArgs& args) {
  const int bytes = ElementBytes(args.dtype);
  const int64_t queries = int64_t{args.batch} * args.heads * args.queries;
  const int64_t keys = int64_t{args.batch} * args.kv_heads * args.keys;
  const Shape scores = {4, {args.batch, args.heads, args.queries, args.keys}};
  Strides mask;
  std::copy_n(args.mask_strides, 4, mask.steps);
  return Run(memory.Holds(args.q, queries * args.head_dim * bytes) &&
                 memory.Holds(args.k, keys * args.head_dim * bytes) &&
                 memory.Holds(args.v, keys * args.value_dim * bytes) &&
                 memory.Holds(args.y, queries * args.value_dim * bytes) &&
                 (args.mask == nullptr || HoldsStrided(memory, args.mask, ElementBytes(args.mask_dtype), scores, mask)),
             host::MaskedAttention, args);
}

cudaError_t Compute(const HostMemory& memory, const RopeArgs& args) {
  const int64_t bytes = Count(args.rows) * args.channels * ElementBytes(args.dtype);
  const int angle = ElementBytes(args.angle_dtype);
  return Run(memory.Holds(args.x, bytes) && memory.Holds(args.y, bytes) &&
                 HoldsStrided(memory, args.cos, angle, args.rows, args.cos_strides, args.channels) &&
                 HoldsStrided(memory, args.sin, angle, args.rows, args.sin_strides, args.channels),
             host::Rope, args);
}

}  // namespace flashflow::cuda::testing
