// What moves elements: copies and lookups.
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/status_macros.h"
#include "kernels/cpu/copy.h"
#include "kernels/cpu/gather.h"
#include "kernels/cpu/index.h"
#include "kernels/registry/cpu_launch.h"
#include "kernels/registry/graph_op_checks.h"
#include "kernels/registry/launch_checks.h"

namespace flashflow::kernels::cpu_launch {
namespace {

// --- moving elements ----------------------------------------------------------

absl::StatusOr<LaunchFn> BindCopy(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const StridedSourceFn source_of, StridedSourceOf(request));
  return [source_of](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const StridedSource source, source_of(context));
    if (y.NumElements() == 0) return absl::OkStatus();
    const Strides y_strides = DenseStrides(y);
    cpu::StridedCopy(source.data, First(source.strides, y.rank), y.data, First(y_strides, y.rank),
                     First(y.dims, y.rank), static_cast<int>(DTypeBytes(y.dtype)), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindConcat(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [axis](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit whole, ConcatSplit(context, axis));
    const int element_bytes = static_cast<int>(DTypeBytes(y.dtype));
    char* to = static_cast<char*>(y.data);
    for (const TensorView& x : context.inputs) {
      const int64_t run = x.dims[axis] * whole.inner;
      const std::array<int64_t, 2> dims = {whole.outer, run};
      const std::array<int64_t, 2> from_strides = {run, 1};
      const std::array<int64_t, 2> to_strides = {whole.axis * whole.inner, 1};
      cpu::StridedCopy(x.data, from_strides, to, to_strides, dims, element_bytes, pool);
      to += run * element_bytes;
    }
    return absl::OkStatus();
  };
}

// --- lookups ------------------------------------------------------------------

template <typename Index>
absl::StatusOr<std::span<const Index>> Indices(std::string_view what, const TensorView& view, int64_t limit) {
  const std::span<const Index> indices(static_cast<const Index*>(view.data), static_cast<size_t>(view.NumElements()));
  if (const std::optional<int64_t> bad = cpu::FirstOutOfRange(indices, limit)) {
    return absl::OutOfRangeError(absl::StrCat(what, " number ", *bad, " is ", indices[static_cast<size_t>(*bad)],
                                              ", expected 0 to ", limit - 1));
  }
  return indices;
}

template <typename Index>
absl::StatusOr<LaunchFn> BindEmbeddingOf() {
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& table = context.inputs[0];
    const TensorView& ids = context.inputs[1];
    const TensorView& y = context.outputs[0];
    if (table.rank != 2) return Mismatch("table", table, "rank 2");
    const int64_t columns = table.dims[1];
    if (y.rank != ids.rank + 1 || DimsOf(y).first(ids.rank) != DimsOf(ids) || y.dims[ids.rank] != columns) {
      return Mismatch("result", y, absl::StrCat("the dims of ids ", Describe(ids), " and then ", columns));
    }
    FF_ASSIGN_OR_RETURN(const std::span<const Index> rows, Indices<Index>("token id", ids, table.dims[0]));
    if (table.dtype == DType::kI8) {
      const TensorView* scale = Optional(context, 2);
      if (scale == nullptr) return Mismatch("table", table, "scales beside its codes");
      FF_RETURN_IF_ERROR(CheckDims("scale", *scale, {table.dims[0]}));
      cpu::GatherRowsInt8ToF32(static_cast<const int8_t*>(table.data), F32(*scale), columns, rows, MutableF32(y), pool);
    } else if (table.dtype == DType::kBF16) {
      cpu::GatherRowsBF16ToF32(static_cast<const uint16_t*>(table.data), columns, rows, MutableF32(y), pool);
    } else {
      cpu::GatherRows(table.data, columns * DTypeBytes(table.dtype), rows, y.data, pool);
    }
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindEmbedding(const BindRequest& request) {
  return request.input_dtypes[1] == DType::kI64 ? BindEmbeddingOf<int64_t>() : BindEmbeddingOf<int32_t>();
}

absl::StatusOr<LaunchFn> BindGatherRows(const BindRequest& request) {
  if (request.input_dtypes[0] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("x and the result differ in dtype");
  }
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& rows = context.inputs[1];
    const TensorView& y = context.outputs[0];
    if (x.rank < 1 || rows.rank != 1) return Mismatch("x", x, "rank 1 or more, and rows of rank 1");
    if (y.rank != x.rank || y.dims[0] != rows.dims[0] || DimsOf(y).subspan(1) != DimsOf(x).subspan(1)) {
      return Mismatch("result", y, absl::StrCat(rows.dims[0], " rows of ", Describe(x)));
    }
    FF_ASSIGN_OR_RETURN(const std::span<const int32_t> indices, Indices<int32_t>("row", rows, x.dims[0]));
    cpu::GatherRows(x.data, Product(DimsOf(x).subspan(1)) * DTypeBytes(x.dtype), indices, y.data, pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindIndex(const BindRequest& request) {
  if (request.input_dtypes[0] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("x and the result differ in dtype");
  }
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const IndexForm form, IndexFormOf(context));
    std::array<cpu::AxisIndex, kMaxRank> indices{};
    for (int i = 0; i < form.axes; ++i) {
      const TensorView& index = context.inputs[i + 1];
      indices[i] = {index.data, index.dtype == DType::kI64, First(form.strides[i], form.lookup_rank), x.dims[i],
                    index.NumElements()};
      if (const std::optional<int64_t> bad = cpu::FirstOutOfRange(indices[i])) {
        return absl::OutOfRangeError(absl::StrCat("index number ", *bad, " into axis ", i, " is ", indices[i].At(*bad),
                                                  ", the axis has ", x.dims[i]));
      }
    }
    cpu::Index(x.data, std::span(indices).first(form.axes), First(y.dims, form.lookup_rank), form.run_bytes, y.data,
               pool);
    return absl::OkStatus();
  };
}

constexpr Binding kBindings[] = {
    {"cpu.copy", 1, BindCopy},           {"cpu.concat", 1, BindConcat},
    {"cpu.embedding", 1, BindEmbedding}, {"cpu.gather_rows", 1, BindGatherRows},
    {"cpu.index", 1, BindIndex},
};

}  // namespace

absl::Span<const Binding> MovingBindings() { return kBindings; }

}  // namespace flashflow::kernels::cpu_launch
