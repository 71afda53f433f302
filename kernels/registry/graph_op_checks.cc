#include "kernels/registry/graph_op_checks.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/dtype.h"
#include "compiler/ir/status_macros.h"
#include "kernels/cpu/cast.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::kernels {

absl::StatusOr<bool> GeluIsTanh(const BindRequest& request) {
  const absl::StatusOr<std::string> approximate = GetAttr<std::string>(request.attrs, "approximate");
  if (!approximate.ok()) return approximate.status();
  if (*approximate == "none") return false;
  if (*approximate == "tanh") return true;
  return absl::InvalidArgumentError(
      absl::StrCat("approximate is \"", *approximate, "\", expected \"none\" or \"tanh\""));
}

absl::StatusOr<std::array<char, 8>> ConstantElement(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const double value, GetAttr<double>(request.attrs, "value"));
  const DType dtype = request.output_dtypes[0];
  std::array<char, 8> element{};
  if (IsFloat(dtype)) {
    const float f32 = static_cast<float>(value);
    cpu::ThreadPool inline_pool(1);
    cpu::Cast(&f32, DType::kF32, element.data(), dtype, 1, &inline_pool);
  } else {
    constexpr double kExactIntegers = 9007199254740992.0;  // 2^53
    if (!(std::abs(value) <= kExactIntegers) || value != std::trunc(value)) {
      return absl::InvalidArgumentError(absl::StrCat("value ", value, " is not an integer"));
    }
    const double end = std::ldexp(1.0, static_cast<int>(8 * DTypeBytes(dtype)) - 1);
    const double lowest = dtype == DType::kBool ? 0 : -end;
    const double highest = dtype == DType::kBool ? 1 : end - 1;
    if (value < lowest || value > highest) {
      return absl::InvalidArgumentError(absl::StrCat("value ", value, " does not fit ", DTypeName(dtype)));
    }
    const int64_t i64 = static_cast<int64_t>(value);
    cpu::ThreadPool inline_pool(1);
    cpu::Cast(&i64, DType::kI64, element.data(), dtype, 1, &inline_pool);
  }
  return element;
}

namespace {

absl::StatusOr<StridedSourceFn> TransposeSource(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const std::vector<int64_t> perm, GetAttr<std::vector<int64_t>>(request.attrs, "perm"));
  std::vector<int64_t> sorted = perm;
  std::ranges::sort(sorted);
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i] != static_cast<int64_t>(i)) {
      return absl::InvalidArgumentError(absl::StrCat("perm [", absl::StrJoin(perm, ", "), "] is not a permutation"));
    }
  }
  return [perm](const LaunchContext& context) -> absl::StatusOr<StridedSource> {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    if (x.rank != static_cast<int>(perm.size())) {
      return Mismatch("x", x, absl::StrCat("rank ", perm.size()));
    }
    const Strides dense = DenseStrides(x);
    Strides dims{};
    Strides strides{};
    for (int i = 0; i < x.rank; ++i) {
      dims[i] = x.dims[perm[i]];
      strides[i] = dense[perm[i]];
    }
    FF_RETURN_IF_ERROR(CheckDims("result", y, absl::MakeConstSpan(dims.data(), x.rank)));
    return StridedSource{x.data, strides};
  };
}

absl::StatusOr<StridedSourceFn> ExpandSource(const BindRequest&) {
  return [](const LaunchContext& context) -> absl::StatusOr<StridedSource> {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides strides, BroadcastStrides("x", context.inputs[0], y));
    return StridedSource{context.inputs[0].data, strides};
  };
}

absl::StatusOr<StridedSourceFn> SliceSource(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  FF_ASSIGN_OR_RETURN(const DimExpr start_dim, GetAttr<DimExpr>(request.attrs, "start"));
  FF_ASSIGN_OR_RETURN(const int64_t step, GetAttr<int64_t>(request.attrs, "step"));
  // Where the slice begins at a symbol: how many elements of the axis come after it.
  std::optional<int64_t> from_end;
  if (request.attrs.contains("from_end")) {
    FF_ASSIGN_OR_RETURN(from_end, GetAttr<int64_t>(request.attrs, "from_end"));
  }
  const std::optional<int64_t> start = from_end ? 0 : start_dim.constant();
  if (!start.has_value() || *start < 0 || step < 1 || (from_end && (*from_end < 0 || step != 1))) {
    return absl::InvalidArgumentError(absl::StrCat("start ", start_dim.ToString(), " and step ", step,
                                                   "; expected a constant start >= 0 and a step >= 1, or a distance "
                                                   "from the end >= 0 and a step of 1"));
  }
  return [axis, fixed_start = *start, from_end, step](const LaunchContext& context) -> absl::StatusOr<StridedSource> {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit split, SplitAt(x, axis));
    bool fits = y.rank == x.rank;
    for (int i = 0; fits && i < x.rank; ++i) fits = i == axis || y.dims[i] == x.dims[i];
    fits = fits && (!from_end || *from_end <= split.axis - y.dims[axis]);
    const int64_t start = fits && from_end ? split.axis - y.dims[axis] - *from_end : fixed_start;
    // The last element is at start + (n - 1) * step; divided, so that nothing overflows.
    fits = fits && (y.dims[axis] == 0 || (start < split.axis && y.dims[axis] - 1 <= (split.axis - 1 - start) / step));
    if (!fits) {
      return Mismatch("result", y,
                      absl::StrCat("a slice from ", start, " by ", step, " along axis ", axis, " of ", Describe(x)));
    }
    if (y.NumElements() == 0) return StridedSource{};
    Strides strides = DenseStrides(x);
    const int64_t first = start * strides[axis] * DTypeBytes(x.dtype);
    strides[axis] *= step;
    return StridedSource{static_cast<const char*>(x.data) + first, strides};
  };
}

}  // namespace

absl::StatusOr<StridedSourceFn> StridedSourceOf(const BindRequest& request) {
  if (request.op == "transpose") return TransposeSource(request);
  if (request.op == "expand") return ExpandSource(request);
  if (request.op == "slice") return SliceSource(request);
  return absl::InternalError(absl::StrCat("no copy \"", request.op, "\""));
}

absl::StatusOr<AxisSplit> ConcatSplit(const LaunchContext& context, int64_t axis) {
  const TensorView& y = context.outputs[0];
  FF_ASSIGN_OR_RETURN(const AxisSplit whole, SplitAt(y, axis));
  int64_t total = 0;
  for (const TensorView& x : context.inputs) {
    bool fits = x.rank == y.rank;
    for (int i = 0; fits && i < x.rank; ++i) fits = i == axis || y.dims[i] == x.dims[i];
    if (!fits) return Mismatch("x", x, absl::StrCat("the dims of ", Describe(y), " but for axis ", axis));
    if (__builtin_add_overflow(total, x.dims[axis], &total)) return Mismatch("x", x, "smaller dims");
  }
  if (total != whole.axis) return Mismatch("result", y, absl::StrCat(total, " along axis ", axis));
  return whole;
}

absl::StatusOr<IndexForm> IndexFormOf(const LaunchContext& context) {
  const TensorView& x = context.inputs[0];
  const TensorView& y = context.outputs[0];
  IndexForm form;
  form.axes = static_cast<int>(context.inputs.size()) - 1;
  const int rest = x.rank - form.axes;
  TensorView lookup = y;  // what the indices broadcast to
  form.lookup_rank = lookup.rank = y.rank - rest;
  if (rest < 0 || lookup.rank < 0 || DimsOf(y).subspan(lookup.rank) != DimsOf(x).subspan(form.axes)) {
    return Mismatch("result", y,
                    absl::StrCat("the indices' dims and then those of ", Describe(x), " from ", form.axes));
  }
  for (int i = 0; i < form.axes; ++i) {
    FF_ASSIGN_OR_RETURN(form.strides[i], BroadcastStrides("indices", context.inputs[i + 1], lookup));
  }
  form.run_bytes = Product(DimsOf(x).subspan(form.axes)) * DTypeBytes(x.dtype);
  return form;
}

absl::StatusOr<ReduceForm> ReduceFormOf(const LaunchContext& context, const std::vector<int64_t>& axes,
                                        bool wants_elements) {
  const TensorView& x = context.inputs[0];
  const TensorView& y = context.outputs[0];
  std::array<bool, kMaxRank> is_reduced{};
  for (int64_t axis : axes) {
    if (axis < 0 || axis >= x.rank || is_reduced[axis]) {
      return Mismatch("x", x, absl::StrCat("axes [", absl::StrJoin(axes, ", "), "] once each"));
    }
    is_reduced[axis] = true;
  }
  const Strides dense = DenseStrides(x);
  ReduceForm form;
  for (int i = 0; i < x.rank; ++i) {
    int& rank = is_reduced[i] ? form.reduced_rank : form.kept_rank;
    (is_reduced[i] ? form.reduced : form.kept)[rank] = x.dims[i];
    (is_reduced[i] ? form.reduced_strides : form.kept_strides)[rank++] = dense[i];
  }
  if (y.NumElements() != Product(absl::MakeConstSpan(form.kept.data(), form.kept_rank))) {
    return Mismatch("result", y, absl::StrCat(Describe(x), " without axes [", absl::StrJoin(axes, ", "), "]"));
  }
  if (wants_elements && y.NumElements() > 0 && x.NumElements() == 0) return Mismatch("x", x, "elements");
  return form;
}

absl::StatusOr<MatMulForm> MatMulFormOf(const LaunchContext& context) {
  const TensorView& a = context.inputs[0];
  const TensorView& b = context.inputs[1];
  const TensorView& y = context.outputs[0];
  if (a.rank < 2) return Mismatch("a", a, "rank 2 or more");
  const int64_t m = a.dims[a.rank - 2];
  const int64_t k = a.dims[a.rank - 1];
  if (b.rank < 2 || b.dims[b.rank - 2] != k) return Mismatch("b", b, absl::StrCat("[..., ", k, ", n]"));
  const int64_t n = b.dims[b.rank - 1];
  if (y.rank != std::max(a.rank, b.rank) || y.dims[y.rank - 2] != m || y.dims[y.rank - 1] != n) {
    return Mismatch("result", y, absl::StrCat("[..., ", m, ", ", n, "]"));
  }
  // The batch of an operand: its leading dims, whose steps are of whole matrices.
  const auto batch_of = [](const TensorView& view) {
    TensorView batch = view;
    batch.rank -= 2;
    return batch;
  };
  const TensorView batch = batch_of(y);
  MatMulForm form = {.m = m, .n = n, .k = k, .batch_rank = batch.rank};
  FF_ASSIGN_OR_RETURN(form.a_strides, BroadcastStrides("a", batch_of(a), batch));
  FF_ASSIGN_OR_RETURN(form.b_strides, BroadcastStrides("b", batch_of(b), batch));
  for (int64_t& stride : form.a_strides) stride *= m * k;
  for (int64_t& stride : form.b_strides) stride *= k * n;
  return form;
}

absl::StatusOr<AttentionAttrs> AttentionAttrsOf(const AttrMap& attrs) {
  AttentionAttrs decoded;
  FF_ASSIGN_OR_RETURN(decoded.causal, GetAttr<bool>(attrs, "causal"));
  FF_ASSIGN_OR_RETURN(const double scale, GetAttr<double>(attrs, "scale"));
  FF_ASSIGN_OR_RETURN(decoded.window, GetAttr<int64_t>(attrs, "window"));
  if (decoded.window < 0) {
    return absl::InvalidArgumentError(absl::StrCat("window is ", decoded.window, ", expected 0 or more"));
  }
  decoded.scale = static_cast<float>(scale);
  return decoded;
}

absl::StatusOr<AttentionForm> AttentionFormOf(const LaunchContext& context) {
  const TensorView& q = context.inputs[0];
  const TensorView& k = context.inputs[1];
  const TensorView& v = context.inputs[2];
  if (q.rank != 4) return Mismatch("q", q, "rank 4");
  if (k.rank != 4 || k.dims[0] != q.dims[0] || k.dims[3] != q.dims[3]) {
    return Mismatch("k", k, absl::StrCat("[", q.dims[0], ", heads, keys, ", q.dims[3], "]"));
  }
  if (k.dims[1] < 1 || q.dims[1] % k.dims[1] != 0) {
    return Mismatch("q", q, absl::StrCat("a multiple of ", k.dims[1], " heads"));
  }
  if (v.rank != 4) return Mismatch("v", v, "rank 4");
  FF_RETURN_IF_ERROR(CheckDims("v", v, {k.dims[0], k.dims[1], k.dims[2], v.dims[3]}));
  FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], {q.dims[0], q.dims[1], q.dims[2], v.dims[3]}));
  AttentionForm form = {.batch = q.dims[0],
                        .heads = q.dims[1],
                        .kv_heads = k.dims[1],
                        .queries = q.dims[2],
                        .keys = k.dims[2],
                        .head_dim = q.dims[3],
                        .value_dim = v.dims[3],
                        .mask = Optional(context, 3)};
  if (form.mask != nullptr) {
    const TensorView scores = {.data = nullptr, .rank = 4, .dims = {q.dims[0], q.dims[1], q.dims[2], k.dims[2]}};
    FF_ASSIGN_OR_RETURN(form.mask_strides, BroadcastStrides("mask", *form.mask, scores));
  }
  return form;
}

absl::StatusOr<RopeForm> RopeFormOf(const LaunchContext& context) {
  const TensorView& x = context.inputs[0];
  const TensorView& cos = context.inputs[1];
  const TensorView& sin = context.inputs[2];
  const TensorView& y = context.outputs[0];
  FF_RETURN_IF_ERROR(CheckDims("result", y, DimsOf(x)));
  if (x.rank < 1 || x.dims[x.rank - 1] % 2 != 0) return Mismatch("x", x, "an even last dim");
  const int64_t channels = x.dims[x.rank - 1];
  for (const auto& [what, angle] : {std::pair("cos", &cos), std::pair("sin", &sin)}) {
    if (angle->rank < 1 || angle->dims[angle->rank - 1] != channels) {
      return Mismatch(what, *angle, absl::StrCat("a last dim of ", channels));
    }
  }
  RopeForm form;
  FF_ASSIGN_OR_RETURN(form.cos_strides, BroadcastStrides("cos", cos, y));
  FF_ASSIGN_OR_RETURN(form.sin_strides, BroadcastStrides("sin", sin, y));
  return form;
}

}  // namespace flashflow::kernels
