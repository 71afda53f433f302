// What launchers of every device check and derive of the ops of rectangular graphs: sizes, and the steps of operands.
#ifndef KERNELS_REGISTRY_GRAPH_OP_CHECKS_H_
#define KERNELS_REGISTRY_GRAPH_OP_CHECKS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/registry/launch_checks.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels {

// Whether gelu is the tanh approximation.
absl::StatusOr<bool> GeluIsTanh(const BindRequest& request);

// constant: the bytes of an element. InvalidArgument for a value that the result's dtype does not have.
absl::StatusOr<std::array<char, 8>> ConstantElement(const BindRequest& request);

// Elements of an operand, one for each of the result's.
struct StridedSource {
  const void* data = nullptr;
  Strides strides{};  // under the result's indices
};
// transpose, expand and slice: where the result's elements lie in the operand. The result's shape is checked.
using StridedSourceFn = std::function<absl::StatusOr<StridedSource>(const LaunchContext&)>;
absl::StatusOr<StridedSourceFn> StridedSourceOf(const BindRequest& request);

// concat: the result's dims round the axis, along which the operands lie one after the other.
absl::StatusOr<AxisSplit> ConcatSplit(const LaunchContext& context, int64_t axis);

// index: operands 1 and on index the first axes of operand 0.
struct IndexForm {
  int axes = 0;
  int lookup_rank = 0;                      // of the result's dims, those of the lookup
  std::array<Strides, kMaxRank> strides{};  // of each index, under the lookup's dims
  int64_t run_bytes = 0;                    // of x, for one index into each axis
};
absl::StatusOr<IndexForm> IndexFormOf(const LaunchContext& context);

// reduce_sum, reduce_mean and reduce_max.
struct ReduceForm {
  int kept_rank = 0, reduced_rank = 0;
  Strides kept{}, reduced{};                  // dims
  Strides kept_strides{}, reduced_strides{};  // of x
};
absl::StatusOr<ReduceForm> ReduceFormOf(const LaunchContext& context, const std::vector<int64_t>& axes,
                                        bool wants_elements);

// matmul: the result's dims but the last two are the batch; its steps go from matrix to matrix.
struct MatMulForm {
  int64_t m = 0, n = 0, k = 0;
  int batch_rank = 0;
  Strides a_strides{}, b_strides{};
};
absl::StatusOr<MatMulForm> MatMulFormOf(const LaunchContext& context);

struct AttentionAttrs {
  bool causal = false;
  float scale = 0;
  int64_t window = 0;  // 0: none
};
absl::StatusOr<AttentionAttrs> AttentionAttrsOf(const AttrMap& attrs);

struct AttentionForm {
  int64_t batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0, head_dim = 0, value_dim = 0;
  const TensorView* mask = nullptr;
  Strides mask_strides{};  // under batch, head, query, key
};
absl::StatusOr<AttentionForm> AttentionFormOf(const LaunchContext& context);

// rope: the steps of the angles under x's dims but the last, which is even.
struct RopeForm {
  Strides cos_strides{}, sin_strides{};
};
absl::StatusOr<RopeForm> RopeFormOf(const LaunchContext& context);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_GRAPH_OP_CHECKS_H_
