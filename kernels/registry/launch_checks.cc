#include "kernels/registry/launch_checks.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::kernels {
namespace {

absl::Status CheckView(const TensorView& view, DType dtype, std::string_view what) {
  if (view.dtype != dtype) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is ", Describe(view), ", bound as ", DTypeName(dtype)));
  }
  if (view.rank < 0 || view.rank > kMaxRank) {
    return absl::InvalidArgumentError(absl::StrCat(what, " has rank ", view.rank));
  }
  for (int i = 0; i < view.rank; ++i) {
    if (view.dims[i] < 0) return absl::InvalidArgumentError(absl::StrCat(what, " is ", Describe(view)));
  }
  if (view.data == nullptr && view.NumElements() > 0) {
    return absl::InvalidArgumentError(absl::StrCat(what, ", ", Describe(view), ", has no data"));
  }
  return absl::OkStatus();
}

class CheckedKernel : public BoundKernel {
 public:
  CheckedKernel(const KernelSpec& spec, const BindRequest& request, CheckedLaunchFn launch)
      : spec_(spec),
        input_dtypes_(request.input_dtypes.begin(), request.input_dtypes.end()),
        output_dtypes_(request.output_dtypes.begin(), request.output_dtypes.end()),
        launch_(std::move(launch)) {}

  absl::Status Launch(const LaunchContext& context) const override {
    if (absl::Status status = CheckedLaunch(context); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat(spec_.id, ": ", status.message()));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status CheckedLaunch(const LaunchContext& context) const {
    if (context.inputs.size() != input_dtypes_.size() || context.outputs.size() != output_dtypes_.size()) {
      return absl::InvalidArgumentError(absl::StrCat("bound with ", input_dtypes_.size(), " inputs and ",
                                                     output_dtypes_.size(), " outputs, launched with ",
                                                     context.inputs.size(), " and ", context.outputs.size()));
    }
    for (size_t i = 0; i < input_dtypes_.size(); ++i) {
      if (!input_dtypes_[i].has_value()) {
        if (context.inputs[i].data != nullptr) {
          return absl::InvalidArgumentError(absl::StrCat("input ", i, " was bound as absent"));
        }
        continue;
      }
      const std::string_view name = spec_.inputs[std::min(i, spec_.inputs.size() - 1)].name;
      FF_RETURN_IF_ERROR(CheckView(context.inputs[i], *input_dtypes_[i], name));
    }
    for (size_t i = 0; i < output_dtypes_.size(); ++i) {
      FF_RETURN_IF_ERROR(CheckView(context.outputs[i], output_dtypes_[i], spec_.outputs[i].name));
    }
    if (spec_.uses_cache) {
      if (context.cache == nullptr) return absl::InvalidArgumentError("launched without a KV cache");
      const CacheView& cache = *context.cache;
      if (!spec_.cache_dtypes.Contains(cache.dtype)) {
        return absl::InvalidArgumentError(absl::StrCat("a KV cache of ", DTypeName(cache.dtype)));
      }
      if (cache.dtype == DType::kI8 && cache.page_size % 4 != 0) {  // so that scales lie at whole floats
        return absl::InvalidArgumentError(
            absl::StrCat("a KV cache of i8 with pages of ", cache.page_size, " tokens, expected whole fours"));
      }
      if (cache.layers <= 0 || cache.num_pages < 0 || cache.kv_heads <= 0 || cache.page_size <= 0 ||
          cache.head_dim <= 0 || (cache.data == nullptr && cache.num_pages > 0)) {
        return absl::InvalidArgumentError("a KV cache without data or with empty dims");
      }
    }
    return launch_(context);
  }

  const KernelSpec& spec_;  // a row of the catalog: lives forever
  std::vector<std::optional<DType>> input_dtypes_;
  std::vector<DType> output_dtypes_;
  CheckedLaunchFn launch_;
};

// Number and dtypes of the operands, by the catalog's row.
absl::Status CheckSignature(const KernelSpec& spec, const BindRequest& request) {
  if (std::ranges::find(spec.ops, request.op) == spec.ops.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("computes ", absl::StrJoin(spec.ops, ", "), ", not \"", request.op, "\""));
  }
  const size_t given = request.input_dtypes.size();
  if ((given > spec.inputs.size() && !spec.variadic) || request.output_dtypes.size() != spec.outputs.size()) {
    return absl::InvalidArgumentError(absl::StrCat("wants ", spec.inputs.size(), " inputs and ", spec.outputs.size(),
                                                   " outputs, not ", given, " and ", request.output_dtypes.size()));
  }
  std::optional<DType> common;
  for (size_t i = 0; i < std::max(given, spec.inputs.size()); ++i) {
    const OperandSpec& operand = spec.inputs[std::min(i, spec.inputs.size() - 1)];
    if (i >= given || !request.input_dtypes[i].has_value()) {
      if (operand.optional) continue;
      return absl::InvalidArgumentError(absl::StrCat("input ", i, " (", operand.name, ") is missing"));
    }
    const DType dtype = *request.input_dtypes[i];
    if (!operand.dtypes.Contains(dtype)) {
      return absl::InvalidArgumentError(absl::StrCat(operand.name, " cannot be ", DTypeName(dtype)));
    }
    if (spec.same_dtype && common.value_or(dtype) != dtype) {
      return absl::InvalidArgumentError(
          absl::StrCat("mixes ", DTypeName(*common), " and ", DTypeName(dtype), "; all operands must have one dtype"));
    }
    common = dtype;
  }
  for (size_t i = 0; i < spec.outputs.size(); ++i) {
    const DType dtype = request.output_dtypes[i];
    if (!spec.outputs[i].dtypes.Contains(dtype) || (spec.same_dtype && common.value_or(dtype) != dtype)) {
      return absl::InvalidArgumentError(absl::StrCat("the result cannot be ", DTypeName(dtype)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string Describe(const TensorView& view) {
  return absl::StrCat(DTypeName(view.dtype), "[",
                      absl::StrJoin(absl::MakeConstSpan(view.dims.data(), std::max(view.rank, 0)), ", "), "]");
}

absl::Status Mismatch(std::string_view what, const TensorView& got, std::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat(what, " is ", Describe(got), ", expected ", wanted));
}

absl::Status CheckDims(std::string_view what, const TensorView& view, absl::Span<const int64_t> dims) {
  if (DimsOf(view) == dims) return absl::OkStatus();
  return Mismatch(what, view, absl::StrCat("[", absl::StrJoin(dims, ", "), "]"));
}

absl::Status CheckWorkspace(const LaunchContext& context, int64_t bytes) {
  const auto wanted = static_cast<size_t>(bytes);
  if (context.workspace_bytes >= wanted && (context.workspace != nullptr || wanted == 0)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("its working memory has ", context.workspace_bytes, " bytes, expected ", wanted));
}

Strides DenseStrides(const TensorView& view) {
  Strides strides{};
  int64_t step = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    strides[i] = step;
    step *= view.dims[i];
  }
  return strides;
}

int64_t Product(absl::Span<const int64_t> dims) {
  int64_t product = 1;
  for (int64_t dim : dims) product *= dim;
  return product;
}

absl::StatusOr<Strides> BroadcastStrides(std::string_view what, const TensorView& in, const TensorView& out) {
  const int shift = out.rank - in.rank;
  const Strides dense = DenseStrides(in);
  Strides strides{};
  bool fits = shift >= 0;
  for (int i = 0; fits && i < in.rank; ++i) {
    fits = in.dims[i] == 1 || in.dims[i] == out.dims[i + shift];
    strides[i + shift] = in.dims[i] == 1 ? 0 : dense[i];
  }
  if (!fits) return Mismatch(what, in, absl::StrCat("dims that broadcast to ", Describe(out)));
  return strides;
}

absl::StatusOr<AxisSplit> SplitAt(const TensorView& view, int64_t axis) {
  if (axis < 0 || axis >= view.rank) {
    return absl::InvalidArgumentError(absl::StrCat("axis ", axis, " of ", Describe(view)));
  }
  const absl::Span<const int64_t> dims = DimsOf(view);
  return AxisSplit{Product(dims.first(axis)), dims[axis], Product(dims.subspan(axis + 1))};
}

absl::StatusOr<LinearSizes> LinearSizesOf(const LaunchContext& context, bool gated, int64_t codes) {
  const TensorView& x = context.inputs[0];
  const TensorView& weight = context.inputs[1];
  const TensorView* bias = Optional(context, 2);
  const TensorView& y = context.outputs[0];
  if (weight.rank != 2 || (gated && weight.dims[0] % 2 != 0)) {
    return Mismatch("weight", weight, gated ? "rank 2 and an even number of rows" : "rank 2");
  }
  const int64_t n = weight.dims[0];
  const int64_t k = codes * weight.dims[1];
  if (x.rank < 1 || x.dims[x.rank - 1] != k) return Mismatch("x", x, absl::StrCat("a last dim of ", k));
  const absl::Span<const int64_t> lead = DimsOf(x).first(x.rank - 1);
  const int64_t columns = gated ? n / 2 : n;
  if (y.rank != x.rank || DimsOf(y).first(lead.size()) != lead || y.dims[y.rank - 1] != columns) {
    return Mismatch("result", y, absl::StrCat("the dims of x, ", Describe(x), ", with a last dim of ", columns));
  }
  if (bias != nullptr) FF_RETURN_IF_ERROR(CheckDims("bias", *bias, {n}));
  return LinearSizes{Product(lead), n, k};
}

absl::Status RegisterChecked(std::string_view kernel_id, int32_t version, CheckedBindFn bind, Launchers* launchers) {
  const KernelSpec* spec = FindKernel(kernel_id, version);
  if (spec == nullptr) return absl::InternalError(absl::StrCat(kernel_id, " is not in the kernel catalog"));
  return launchers->Register(
      kernel_id, version,
      [spec, bind = std::move(bind)](const BindRequest& request) -> absl::StatusOr<std::unique_ptr<BoundKernel>> {
        absl::Status status = CheckSignature(*spec, request);
        if (status.ok()) {
          absl::StatusOr<CheckedLaunchFn> launch = bind(request);
          if (launch.ok()) return std::make_unique<CheckedKernel>(*spec, request, *std::move(launch));
          status = launch.status();
        }
        return absl::Status(status.code(), absl::StrCat(spec->id, ": ", status.message()));
      });
}

}  // namespace flashflow::kernels
