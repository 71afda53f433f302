#include "compiler/frontend/lowering.h"

#include <algorithm>
#include <utility>

#include "absl/base/no_destructor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::frontend {
namespace {

const Arg& NullArg() {
  static const absl::NoDestructor<Arg> null;
  return *null;
}

bool SameScalar(const Arg& a, const Arg& b) {
  auto number = [](const Arg& arg) -> std::optional<double> {
    if (const auto* i = std::get_if<int64_t>(&arg.value)) return static_cast<double>(*i);
    if (const auto* d = std::get_if<double>(&arg.value)) return *d;
    return std::nullopt;
  };
  if (number(a).has_value()) return number(a) == number(b);
  if (const auto* x = std::get_if<bool>(&a.value)) {
    const auto* y = std::get_if<bool>(&b.value);
    return y != nullptr && *x == *y;
  }
  if (const auto* x = std::get_if<std::string>(&a.value)) {
    const auto* y = std::get_if<std::string>(&b.value);
    return y != nullptr && *x == *y;
  }
  return false;
}

}  // namespace

absl::StatusOr<Call> Call::Bind(const JsonNode& node, std::string_view parameters, const Environment& environment,
                                std::string loc, ir::Graph* graph) {
  Call call;
  call.node_ = &node;
  call.environment_ = &environment;
  call.graph_ = graph;
  call.loc_ = std::move(loc);
  std::vector<std::string_view> names;
  std::vector<std::string_view> required;
  for (std::string_view name : absl::StrSplit(parameters, ' ', absl::SkipEmpty())) {
    if (name.back() == '?' || name.back() == '~') {
      name.remove_suffix(1);
    } else {
      required.push_back(name);
    }
    names.push_back(name);
  }
  if (node.args.size() > names.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected at most ", names.size(), " arguments (", parameters, "), got ", node.args.size()));
  }
  for (size_t i = 0; i < node.args.size(); ++i) call.arguments_[names[i]] = &node.args[i];
  for (const auto& [key, arg] : node.kwargs) {
    auto it = std::find(names.begin(), names.end(), key);
    if (it == names.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown argument \"", key, "\" = ", ArgToString(arg), "; known: ", parameters));
    }
    if (!call.arguments_.emplace(*it, &arg).second) {
      return absl::InvalidArgumentError(absl::StrCat("argument \"", key, "\" is given twice"));
    }
  }
  for (std::string_view name : required) {
    if (!call.arguments_.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat("argument \"", name, "\" is missing"));
    }
  }
  return call;
}

bool Call::IsWithin(const DimExpr& x, const DimExpr& low, const DimExpr& high) const {
  const SymbolRanges ranges = graph_->symbol_ranges();
  const auto below = (x - low).Bounds(ranges);
  const auto above = (high - x).Bounds(ranges);
  return below.ok() && above.ok() && below->min >= 0 && above->min >= 0;
}

const Arg& Call::Get(std::string_view name) const {
  auto it = arguments_.find(name);
  return it == arguments_.end() ? NullArg() : *it->second;
}

bool Call::Has(std::string_view name) const { return !std::holds_alternative<std::monostate>(Get(name).value); }

absl::Status Call::Error(std::string_view name, std::string_view expected) const {
  return absl::InvalidArgumentError(
      absl::StrCat("argument \"", name, "\": expected ", expected, ", got ", ArgToString(Get(name))));
}

absl::StatusOr<ir::Value*> Call::Tensor(std::string_view name) const {
  const Ref* ref = std::get_if<Ref>(&Get(name).value);
  if (ref == nullptr) return Error(name, "a tensor");
  const Values& values = environment_->at(ref->id);
  if (values.size() != 1) return Error(name, "one tensor, not the several results of a node");
  return values[0];
}

absl::StatusOr<ir::Value*> Call::OptionalTensor(std::string_view name) const {
  if (!Has(name)) return nullptr;
  return Tensor(name);
}

absl::StatusOr<Values> Call::Tensors(std::string_view name) const {
  const auto* list = std::get_if<std::vector<Arg>>(&Get(name).value);
  if (list == nullptr || list->empty()) return Error(name, "a list of tensors");
  Values values;
  for (const Arg& arg : *list) {
    const Ref* ref = std::get_if<Ref>(&arg.value);
    if (ref == nullptr || environment_->at(ref->id).size() != 1) return Error(name, "a list of tensors");
    values.push_back(environment_->at(ref->id)[0]);
  }
  return values;
}

absl::StatusOr<int64_t> Call::Int(std::string_view name, std::optional<int64_t> otherwise) const {
  if (!Has(name) && otherwise.has_value()) return *otherwise;
  const auto* value = std::get_if<int64_t>(&Get(name).value);
  if (value == nullptr) return Error(name, "an int");
  return *value;
}

absl::StatusOr<double> Call::Float(std::string_view name, std::optional<double> otherwise) const {
  if (!Has(name) && otherwise.has_value()) return *otherwise;
  if (const auto* value = std::get_if<int64_t>(&Get(name).value)) return static_cast<double>(*value);
  const auto* value = std::get_if<double>(&Get(name).value);
  if (value == nullptr) return Error(name, "a number");
  return *value;
}

absl::StatusOr<bool> Call::Bool(std::string_view name, bool otherwise) const {
  if (!Has(name)) return otherwise;
  const auto* value = std::get_if<bool>(&Get(name).value);
  if (value == nullptr) return Error(name, "a bool");
  return *value;
}

absl::StatusOr<std::string> Call::String(std::string_view name, std::string_view otherwise) const {
  if (!Has(name)) return std::string(otherwise);
  const auto* value = std::get_if<std::string>(&Get(name).value);
  if (value == nullptr) return Error(name, "a string");
  return *value;
}

absl::StatusOr<std::optional<DType>> Call::OptionalDType(std::string_view name) const {
  if (!Has(name)) return std::nullopt;
  const auto* value = std::get_if<DType>(&Get(name).value);
  if (value == nullptr) return Error(name, "a dtype of f32, f16, bf16, i8, i32, i64, bool");
  return *value;
}

absl::StatusOr<Dims> Call::DimList(std::string_view name) const {
  const auto* list = std::get_if<std::vector<Arg>>(&Get(name).value);
  if (list == nullptr) return Error(name, "a list of dims");
  Dims dims;
  for (const Arg& arg : *list) {
    if (const auto* value = std::get_if<int64_t>(&arg.value)) {
      dims.push_back(*value);
    } else if (const auto* dim = std::get_if<DimExpr>(&arg.value)) {
      dims.push_back(*dim);
    } else {
      return Error(name, "a list of dims");
    }
  }
  return dims;
}

absl::StatusOr<std::vector<int64_t>> Call::IntList(std::string_view name) const {
  if (const auto* value = std::get_if<int64_t>(&Get(name).value)) return std::vector<int64_t>{*value};
  const auto* list = std::get_if<std::vector<Arg>>(&Get(name).value);
  if (list == nullptr) return Error(name, "a list of ints");
  std::vector<int64_t> ints;
  for (const Arg& arg : *list) {
    const auto* value = std::get_if<int64_t>(&arg.value);
    if (value == nullptr) return Error(name, "a list of ints");
    ints.push_back(*value);
  }
  return ints;
}

absl::StatusOr<int64_t> Call::Axis(std::string_view name, size_t rank, std::optional<int64_t> otherwise) const {
  FF_ASSIGN_OR_RETURN(const int64_t axis, Int(name, otherwise));
  const int64_t n = static_cast<int64_t>(rank);
  if (axis < -n || axis >= n) return Error(name, absl::StrCat("an axis of a tensor of rank ", n));
  return axis < 0 ? axis + n : axis;
}

absl::StatusOr<std::vector<int64_t>> Call::Axes(std::string_view name, size_t rank) const {
  FF_ASSIGN_OR_RETURN(std::vector<int64_t> axes, IntList(name));
  const int64_t n = static_cast<int64_t>(rank);
  for (int64_t& axis : axes) {
    if (axis < -n || axis >= n) return Error(name, absl::StrCat("axes of a tensor of rank ", n));
    if (axis < 0) axis += n;
  }
  return axes;
}

absl::Status Call::RequireDefault(std::string_view name, const Arg& wanted, std::string_view reason) const {
  if (!Has(name) || SameScalar(Get(name), wanted)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("argument \"", name, "\" = ", ArgToString(Get(name)), " is not supported: ", reason));
}

absl::StatusOr<ir::Value*> Call::Emit(ir::Op op, std::vector<ir::Value*> operands, AttrMap attrs) const {
  FF_ASSIGN_OR_RETURN(ir::Node * node, graph_->AddNode(op, std::move(operands), std::move(attrs), loc_));
  return node->result();
}

absl::StatusOr<ir::Value*> Call::Constant(double value, DType dtype) const {
  return Emit(ir::Op::kConstant, {}, {{"value", value}, {"dtype", dtype}});
}

absl::StatusOr<ir::Value*> Call::Cast(ir::Value* value, DType dtype) const {
  if (value->tensor().dtype == dtype) return value;
  return Emit(ir::Op::kCast, {value}, {{"dtype", dtype}});
}

absl::StatusOr<ir::Value*> Call::Reshape(ir::Value* value, Dims shape) const {
  if (value->tensor().shape == shape) return value;
  return Emit(ir::Op::kReshape, {value}, {{"shape", std::move(shape)}});
}

std::vector<TargetGroup> TargetGroups() {
  return {{"Elementwise", ElementwiseTargets()},
          {"Comparisons, logic and choice", ConditionTargets()},
          {"Tensors of sizes and numbers", CreationTargets()},
          {"Shapes and lookups", ShapeTargets()},
          {"Reductions, products and attention", ContractionTargets()},
          {"No change but of the dtype", IdentityTargets()}};
}

const TargetRow* FindTarget(std::string_view target) {
  for (const TargetGroup& group : TargetGroups()) {
    for (const TargetRow& row : group.rows) {
      if (row.target == target) return &row;
    }
  }
  return nullptr;
}

}  // namespace flashflow::frontend
