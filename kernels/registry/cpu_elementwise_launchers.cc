// Functions of elements, and constants.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/status_macros.h"
#include "kernels/cpu/binary.h"
#include "kernels/cpu/cast.h"
#include "kernels/cpu/fill.h"
#include "kernels/cpu/integer_binary.h"
#include "kernels/cpu/predicate.h"
#include "kernels/cpu/select.h"
#include "kernels/cpu/unary.h"
#include "kernels/registry/cpu_launch.h"
#include "kernels/registry/graph_op_checks.h"
#include "kernels/registry/launch_checks.h"

namespace flashflow::kernels::cpu_launch {
namespace {

// --- elementwise --------------------------------------------------------------

absl::StatusOr<cpu::UnaryOp> UnaryOpOf(const BindRequest& request) {
  using Op = cpu::UnaryOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"neg", Op::kNeg},         {"abs", Op::kAbs},
      {"exp", Op::kExp},         {"sqrt", Op::kSqrt},
      {"rsqrt", Op::kRsqrt},     {"tanh", Op::kTanh},
      {"erf", Op::kErf},         {"sin", Op::kSin},
      {"cos", Op::kCos},         {"relu", Op::kRelu},
      {"sigmoid", Op::kSigmoid}, {"gelu", Op::kGelu},
      {"silu", Op::kSilu},       {"reciprocal", Op::kReciprocal},
  };
  const auto* found = std::ranges::find(kOps, request.op, &std::pair<std::string_view, Op>::first);
  if (found == std::end(kOps)) return absl::InternalError(absl::StrCat("no unary \"", request.op, "\""));
  if (found->second != Op::kGelu) return found->second;
  FF_ASSIGN_OR_RETURN(const bool tanh, GeluIsTanh(request));
  return tanh ? Op::kGeluTanh : Op::kGelu;
}

absl::StatusOr<LaunchFn> BindUnary(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const cpu::UnaryOp op, UnaryOpOf(request));
  return [op](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(x)));
    cpu::Unary(op, F32(x), MutableF32(context.outputs[0]), x.NumElements(), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindBinary(const BindRequest& request) {
  using Op = cpu::BinaryOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"add", Op::kAdd},         {"sub", Op::kSub},         {"mul", Op::kMul}, {"div", Op::kDiv},
      {"maximum", Op::kMaximum}, {"minimum", Op::kMinimum}, {"pow", Op::kPow},
  };
  const auto* found = std::ranges::find(kOps, request.op, &std::pair<std::string_view, Op>::first);
  if (found == std::end(kOps)) return absl::InternalError(absl::StrCat("no binary \"", request.op, "\""));
  return [op = found->second](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& a = context.inputs[0];
    const TensorView& b = context.inputs[1];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::Binary(op, F32(a), First(a_strides, y.rank), F32(b), First(b_strides, y.rank), MutableF32(y),
                First(y.dims, y.rank), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindIntegerBinary(const BindRequest& request) {
  using Op = cpu::IntegerOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {
      {"add", Op::kAdd}, {"sub", Op::kSub}, {"mul", Op::kMul}, {"maximum", Op::kMaximum}, {"minimum", Op::kMinimum}};
  FF_ASSIGN_OR_RETURN(const Op op, OpIn(kOps, request.op));
  return [op](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& a = context.inputs[0];
    const TensorView& b = context.inputs[1];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::IntegerBinary(op, y.dtype, a.data, First(a_strides, y.rank), b.data, First(b_strides, y.rank), y.data,
                       First(y.dims, y.rank), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindCompare(const BindRequest& request) {
  using Op = cpu::CompareOp;
  static constexpr std::pair<std::string_view, Op> kOps[] = {{"eq", Op::kEq}, {"ne", Op::kNe}, {"lt", Op::kLt},
                                                             {"le", Op::kLe}, {"gt", Op::kGt}, {"ge", Op::kGe}};
  FF_ASSIGN_OR_RETURN(const Op op, OpIn(kOps, request.op));
  if (request.input_dtypes[0] != request.input_dtypes[1]) return absl::InvalidArgumentError("a and b differ in dtype");
  return [op](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& a = context.inputs[0];
    const TensorView& b = context.inputs[1];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::Compare(op, a.dtype, a.data, First(a_strides, y.rank), b.data, First(b_strides, y.rank),
                 static_cast<bool*>(y.data), First(y.dims, y.rank), pool);
    return absl::OkStatus();
  };
}

const bool* Bools(const TensorView& view) { return static_cast<const bool*>(view.data); }

absl::StatusOr<LaunchFn> BindLogical(const BindRequest& request) {
  const auto op = request.op == "logical_and" ? cpu::LogicalOp::kAnd : cpu::LogicalOp::kOr;
  return [op](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& a = context.inputs[0];
    const TensorView& b = context.inputs[1];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::Logical(op, Bools(a), First(a_strides, y.rank), Bools(b), First(b_strides, y.rank), static_cast<bool*>(y.data),
                 First(y.dims, y.rank), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindLogicalNot(const BindRequest&) {
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    FF_RETURN_IF_ERROR(CheckDims("result", context.outputs[0], DimsOf(x)));
    cpu::LogicalNot(Bools(x), static_cast<bool*>(context.outputs[0].data), x.NumElements(), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindSelect(const BindRequest& request) {
  if (request.input_dtypes[1] != request.output_dtypes[0] || request.input_dtypes[2] != request.output_dtypes[0]) {
    return absl::InvalidArgumentError("a, b and the result differ in dtype");
  }
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& condition = context.inputs[0];
    const TensorView& a = context.inputs[1];
    const TensorView& b = context.inputs[2];
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const Strides condition_strides, BroadcastStrides("condition", condition, y));
    FF_ASSIGN_OR_RETURN(const Strides a_strides, BroadcastStrides("a", a, y));
    FF_ASSIGN_OR_RETURN(const Strides b_strides, BroadcastStrides("b", b, y));
    cpu::Select(Bools(condition), First(condition_strides, y.rank), a.data, First(a_strides, y.rank), b.data,
                First(b_strides, y.rank), y.data, First(y.dims, y.rank), static_cast<int>(DTypeBytes(y.dtype)), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindCast(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const DType dtype, GetAttr<DType>(request.attrs, "dtype"));
  if (dtype != request.output_dtypes[0]) {
    return absl::InvalidArgumentError(
        absl::StrCat("dtype is ", DTypeName(dtype), ", but the result is ", DTypeName(request.output_dtypes[0])));
  }
  return [](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& x = context.inputs[0];
    const TensorView& y = context.outputs[0];
    FF_RETURN_IF_ERROR(CheckDims("result", y, DimsOf(x)));
    cpu::Cast(x.data, x.dtype, y.data, y.dtype, x.NumElements(), pool);
    return absl::OkStatus();
  };
}

// --- creation -----------------------------------------------------------------

absl::StatusOr<LaunchFn> BindConstant(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const auto element, ConstantElement(request));
  return [element](const LaunchContext& context, cpu::ThreadPool* pool) -> absl::Status {
    const TensorView& y = context.outputs[0];
    cpu::Fill(element.data(), static_cast<int>(DTypeBytes(y.dtype)), y.data, y.NumElements(), pool);
    return absl::OkStatus();
  };
}

absl::StatusOr<LaunchFn> BindIota(const BindRequest& request) {
  FF_ASSIGN_OR_RETURN(const int64_t axis, GetAttr<int64_t>(request.attrs, "axis"));
  return [axis](const LaunchContext& context, cpu::ThreadPool*) -> absl::Status {
    const TensorView& y = context.outputs[0];
    FF_ASSIGN_OR_RETURN(const AxisSplit split, SplitAt(y, axis));
    cpu::Iota(y.dtype, y.data, split.outer, split.axis, split.inner);
    return absl::OkStatus();
  };
}

constexpr Binding kBindings[] = {
    {"cpu.unary", 1, BindUnary},     {"cpu.binary", 1, BindBinary},   {"cpu.integer_binary", 1, BindIntegerBinary},
    {"cpu.compare", 1, BindCompare}, {"cpu.logical", 1, BindLogical}, {"cpu.logical_not", 1, BindLogicalNot},
    {"cpu.select", 1, BindSelect},   {"cpu.cast", 1, BindCast},       {"cpu.constant", 1, BindConstant},
    {"cpu.iota", 1, BindIota},
};

}  // namespace

absl::Span<const Binding> ElementwiseBindings() { return kBindings; }

}  // namespace flashflow::kernels::cpu_launch
