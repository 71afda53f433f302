// Targets that make tensors of nothing but sizes and numbers: arange, zeros, ones, full.
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compiler/frontend/lowering.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::frontend {
namespace {

using ir::Op;

absl::StatusOr<Values> One(absl::StatusOr<ir::Value*> value) {
  if (!value.ok()) return value.status();
  return Values{*value};
}

// A number: an int, a float or a bool.
absl::StatusOr<double> Number(const Call& call, std::string_view name) {
  if (const auto* value = std::get_if<bool>(&call.Get(name).value)) return *value ? 1.0 : 0.0;
  return call.Float(name);
}

// The dtype of a number's tensor if none is asked for, as torch.
DType DTypeOf(const Call& call, std::string_view name) {
  const Arg& arg = call.Get(name);
  if (std::holds_alternative<bool>(arg.value)) return DType::kBool;
  return std::holds_alternative<int64_t>(arg.value) ? DType::kI64 : DType::kF32;
}

absl::StatusOr<Values> Filled(const Call& call, double number, DType dtype, Dims shape) {
  return One(call.Emit(Op::kConstant, {}, {{"value", number}, {"dtype", dtype}, {"shape", std::move(shape)}}));
}

// zeros and ones of a size; the dtype is the argument's, else f32.
template <int number>
absl::StatusOr<Values> OfSize(const Call& call) {
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  FF_ASSIGN_OR_RETURN(Dims size, call.DimList("size"));
  return Filled(call, number, dtype.value_or(DType::kF32), std::move(size));
}

absl::StatusOr<Values> Full(const Call& call) {
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  FF_ASSIGN_OR_RETURN(const double number, Number(call, "fill_value"));
  FF_ASSIGN_OR_RETURN(Dims size, call.DimList("size"));
  return Filled(call, number, dtype.value_or(DTypeOf(call, "fill_value")), std::move(size));
}

absl::StatusOr<Values> ScalarTensor(const Call& call) {
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  FF_ASSIGN_OR_RETURN(const double number, Number(call, "s"));
  return Filled(call, number, dtype.value_or(DTypeOf(call, "s")), {});
}

// new_zeros and new_ones: of a size, in self's dtype if none is asked for.
template <int number>
absl::StatusOr<Values> New(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * self, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  FF_ASSIGN_OR_RETURN(Dims size, call.DimList("size"));
  return Filled(call, number, dtype.value_or(self->tensor().dtype), std::move(size));
}

absl::StatusOr<Values> NewFull(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * self, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  FF_ASSIGN_OR_RETURN(const double number, Number(call, "fill_value"));
  FF_ASSIGN_OR_RETURN(Dims size, call.DimList("size"));
  return Filled(call, number, dtype.value_or(self->tensor().dtype), std::move(size));
}

template <int number>
absl::StatusOr<Values> Like(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * self, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  return Filled(call, number, dtype.value_or(self->tensor().dtype), self->tensor().shape);
}

absl::StatusOr<Values> FullLike(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * self, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  FF_ASSIGN_OR_RETURN(const double number, Number(call, "fill_value"));
  return Filled(call, number, dtype.value_or(self->tensor().dtype), self->tensor().shape);
}

// An int or a dim.
absl::StatusOr<DimExpr> Bound(const Call& call, std::string_view name, int64_t otherwise) {
  if (const auto* dim = std::get_if<DimExpr>(&call.Get(name).value)) return *dim;
  FF_ASSIGN_OR_RETURN(const int64_t value, call.Int(name, otherwise));
  return DimExpr(value);
}

// start, start + 1, ... below end.
absl::StatusOr<Values> Arange(const Call& call) {
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  FF_RETURN_IF_ERROR(call.RequireDefault("step", Arg{int64_t{1}}, "only steps of 1 are"));
  if (!call.Has("end")) return call.Error("end", "an int or a dim");
  FF_ASSIGN_OR_RETURN(const DimExpr start, Bound(call, "start", 0));
  FF_ASSIGN_OR_RETURN(const DimExpr end, Bound(call, "end", 0));
  const std::optional<int64_t> first = start.constant();
  if (!first.has_value()) return call.Error("start", "a constant");
  const DType type = dtype.value_or(DType::kI64);
  FF_ASSIGN_OR_RETURN(ir::Value * count,
                      call.Emit(Op::kIota, {}, {{"dtype", type}, {"shape", Dims{end - start}}, {"axis", int64_t{0}}}));
  if (*first == 0) return Values{count};
  FF_ASSIGN_OR_RETURN(ir::Value * offset, call.Constant(static_cast<double>(*first), type));
  return One(call.Emit(Op::kAdd, {count, offset}));
}

constexpr TargetRow kTargets[] = {
    {"aten.arange.default", "end dtype? layout~ device~ pin_memory~", Arange, "of ints"},
    {"aten.arange.start", "start end dtype? layout~ device~ pin_memory~", Arange, "of ints, from a constant on"},
    {"aten.arange.start_step", "start end step? dtype? layout~ device~ pin_memory~", Arange,
     "of ints, from a constant on, in steps of 1"},
    {"aten.zeros.default", "size dtype? layout~ device~ pin_memory~", OfSize<0>},
    {"aten.ones.default", "size dtype? layout~ device~ pin_memory~", OfSize<1>},
    {"aten.full.default", "size fill_value dtype? layout~ device~ pin_memory~", Full},
    {"aten.scalar_tensor.default", "s dtype? layout~ device~ pin_memory~", ScalarTensor},
    {"aten.new_zeros.default", "self size dtype? layout~ device~ pin_memory~", New<0>},
    {"aten.new_ones.default", "self size dtype? layout~ device~ pin_memory~", New<1>},
    {"aten.new_full.default", "self size fill_value dtype? layout~ device~ pin_memory~", NewFull},
    {"aten.zeros_like.default", "self dtype? layout~ device~ pin_memory~ memory_format~", Like<0>},
    {"aten.ones_like.default", "self dtype? layout~ device~ pin_memory~ memory_format~", Like<1>},
    {"aten.full_like.default", "self fill_value dtype? layout~ device~ pin_memory~ memory_format~", FullLike},
};

}  // namespace

absl::Span<const TargetRow> CreationTargets() { return kTargets; }

}  // namespace flashflow::frontend
