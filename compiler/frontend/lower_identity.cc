// Targets that change nothing in inference but, for some, the dtype.
#include <utility>

#include "compiler/frontend/lowering.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::frontend {
namespace {

absl::StatusOr<Values> Identity(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  return Values{x};
}

absl::StatusOr<Values> Dropout(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("input"));
  FF_RETURN_IF_ERROR(call.RequireDefault("train", Arg{false}, "call model.eval() before exporting"));
  return Values{x};
}

absl::StatusOr<Values> ToDType(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(const std::optional<DType> dtype, call.OptionalDType("dtype"));
  FF_ASSIGN_OR_RETURN(ir::Value * result, call.Cast(x, dtype.value_or(x->tensor().dtype)));
  return Values{result};
}

absl::StatusOr<Values> TypeAs(const Call& call) {
  FF_ASSIGN_OR_RETURN(ir::Value * x, call.Tensor("self"));
  FF_ASSIGN_OR_RETURN(ir::Value * other, call.Tensor("other"));
  FF_ASSIGN_OR_RETURN(ir::Value * result, call.Cast(x, other->tensor().dtype));
  return Values{result};
}

constexpr TargetRow kTargets[] = {
    {"aten.contiguous.default", "self memory_format~", Identity},
    {"aten.clone.default", "self memory_format~", Identity},
    {"aten.detach.default", "self", Identity},
    {"aten.detach_.default", "self", Identity},
    {"aten.alias.default", "self", Identity},
    {"aten.lift_fresh_copy.default", "self", Identity},
    {"aten.dropout.default", "input p~ train?", Dropout, "in eval mode"},
    {"aten._to_copy.default", "self dtype? layout~ device~ pin_memory~ non_blocking~ memory_format~", ToDType},
    {"aten.to.dtype", "self dtype non_blocking~ copy~ memory_format~", ToDType},
    {"aten.to.device", "self device~ dtype? non_blocking~ copy~ memory_format~", ToDType},
    {"aten.to.dtype_layout", "self dtype? layout~ device~ pin_memory~ non_blocking~ copy~ memory_format~", ToDType},
    {"aten.type_as.default", "self other", TypeAs},
};

}  // namespace

absl::Span<const TargetRow> IdentityTargets() { return kTargets; }

}  // namespace flashflow::frontend
