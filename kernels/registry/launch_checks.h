// What launchers of every device check before they run a kernel: the step is untrusted.
#ifndef KERNELS_REGISTRY_LAUNCH_CHECKS_H_
#define KERNELS_REGISTRY_LAUNCH_CHECKS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "compiler/ir/dtype.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels {

// Runs a step whose operands' number, dtypes and pointers have been checked against the catalog.
using CheckedLaunchFn = std::function<absl::Status(const LaunchContext&)>;
// Decodes a step's attributes once; its operands' number and dtypes have been checked against the catalog.
using CheckedBindFn = std::function<absl::StatusOr<CheckedLaunchFn>(const BindRequest&)>;

// Registers a kernel of the catalog behind these checks. Errors name the kernel. Internal if the catalog lacks it.
absl::Status RegisterChecked(std::string_view kernel_id, int32_t version, CheckedBindFn bind, Launchers* launchers);

// "f32[2, 3]".
std::string Describe(const TensorView& view);

absl::Status Mismatch(std::string_view what, const TensorView& got, std::string_view wanted);
absl::Status CheckDims(std::string_view what, const TensorView& view, absl::Span<const int64_t> dims);
absl::Status CheckWorkspace(const LaunchContext& context, int64_t bytes);

using Strides = std::array<int64_t, kMaxRank>;

inline absl::Span<const int64_t> DimsOf(const TensorView& view) {
  return absl::MakeConstSpan(view.dims.data(), static_cast<size_t>(view.rank));
}
Strides DenseStrides(const TensorView& view);
int64_t Product(absl::Span<const int64_t> dims);

// `in`'s steps under the indices of `out`, as numpy broadcasts.
absl::StatusOr<Strides> BroadcastStrides(std::string_view what, const TensorView& in, const TensorView& out);

// The dims before, at and after an axis.
struct AxisSplit {
  int64_t outer = 1;
  int64_t axis = 1;
  int64_t inner = 1;
};
absl::StatusOr<AxisSplit> SplitAt(const TensorView& view, int64_t axis);

// nullptr if operand i is absent.
inline const TensorView* Optional(const LaunchContext& context, size_t i) {
  return i < context.inputs.size() && context.inputs[i].data != nullptr ? &context.inputs[i] : nullptr;
}

// A linear layer of rows: y[m, n] = x[m, k] * weight[n, k]^T; where it is gated, the result has n / 2 columns.
struct LinearSizes {
  int64_t m = 0, n = 0, k = 0;
};
// Of operands x, weight and bias, which are checked, and the result. An element of the weight holds `codes` values.
absl::StatusOr<LinearSizes> LinearSizesOf(const LaunchContext& context, bool gated, int64_t codes = 1);

// The row of `table`, pairs of names and values, for the step's op.
template <typename Table>
auto OpIn(const Table& table, std::string_view op) -> absl::StatusOr<decltype(std::begin(table)->second)> {
  for (const auto& [name, value] : table) {
    if (name == op) return value;
  }
  return absl::InternalError(absl::StrCat("no \"", op, "\" here"));
}

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_LAUNCH_CHECKS_H_
