// Lowering of single aten calls to IR nodes: one table row a target.
//
// To support another target, add a row to the table of its group (lower_*.cc). A row names the parameters in the order
// of the aten schema; a lowering reads them by name, whether they came by position or by keyword.
#ifndef COMPILER_FRONTEND_LOWERING_H_
#define COMPILER_FRONTEND_LOWERING_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/frontend/graph_json.h"
#include "compiler/ir/graph.h"

namespace flashflow::frontend {

using Values = std::vector<ir::Value*>;                        // the results of one node
using Environment = absl::flat_hash_map<std::string, Values>;  // by id

// One node's arguments bound to its row's parameters, and the graph that it is lowered into.
class Call {
 public:
  // `parameters` as in TargetRow. InvalidArgument on too many, unknown, doubled or missing arguments.
  static absl::StatusOr<Call> Bind(const JsonNode& node, std::string_view parameters, const Environment& environment,
                                   std::string loc, ir::Graph* graph);

  const JsonNode& node() const { return *node_; }
  // Whether low <= x <= high for all sizes that the graph's symbols may take.
  bool IsWithin(const DimExpr& x, const DimExpr& low, const DimExpr& high) const;

  // Whether the argument was given and is not null.
  bool Has(std::string_view name) const;
  const Arg& Get(std::string_view name) const;  // null if it was not given

  // InvalidArgument names the parameter and what came; with a default, an absent or null argument gives the default.
  absl::StatusOr<ir::Value*> Tensor(std::string_view name) const;
  absl::StatusOr<ir::Value*> OptionalTensor(std::string_view name) const;  // nullptr if absent
  absl::StatusOr<Values> Tensors(std::string_view name) const;
  absl::StatusOr<int64_t> Int(std::string_view name, std::optional<int64_t> otherwise = std::nullopt) const;
  absl::StatusOr<double> Float(std::string_view name, std::optional<double> otherwise = std::nullopt) const;
  absl::StatusOr<bool> Bool(std::string_view name, bool otherwise) const;
  absl::StatusOr<std::string> String(std::string_view name, std::string_view otherwise) const;
  absl::StatusOr<std::optional<DType>> OptionalDType(std::string_view name) const;
  absl::StatusOr<Dims> DimList(std::string_view name) const;                  // ints and dim expressions
  absl::StatusOr<std::vector<int64_t>> IntList(std::string_view name) const;  // a single int counts as a list of one
  // An axis of a tensor of this rank, negative ones counted from the end.
  absl::StatusOr<int64_t> Axis(std::string_view name, size_t rank,
                               std::optional<int64_t> otherwise = std::nullopt) const;
  absl::StatusOr<std::vector<int64_t>> Axes(std::string_view name, size_t rank) const;
  // Unimplemented-by-choice arguments: InvalidArgument with `reason` unless absent, null or equal to `wanted`.
  absl::Status RequireDefault(std::string_view name, const Arg& wanted, std::string_view reason) const;

  // Adds a node, located at the call.
  absl::StatusOr<ir::Value*> Emit(ir::Op op, std::vector<ir::Value*> operands, AttrMap attrs = {}) const;
  absl::StatusOr<ir::Value*> Constant(double value, DType dtype) const;    // of shape []
  absl::StatusOr<ir::Value*> Cast(ir::Value* value, DType dtype) const;    // itself if it has the dtype
  absl::StatusOr<ir::Value*> Reshape(ir::Value* value, Dims shape) const;  // itself if it has the shape

  absl::Status Error(std::string_view name,
                     std::string_view expected) const;  // "argument "dim": expected ..., got ..."

 private:
  const JsonNode* node_ = nullptr;
  const Environment* environment_ = nullptr;
  ir::Graph* graph_ = nullptr;
  std::string loc_;
  absl::flat_hash_map<std::string_view, const Arg*> arguments_;
};

using LowerFn = absl::StatusOr<Values> (*)(const Call& call);

struct TargetRow {
  std::string_view target;  // "aten.gelu.default"
  // Names separated by blanks, in the schema's order. "name?" may be absent; "name~" may be absent and is not read:
  // it does not change the result (memory formats, devices, sparse gradients).
  std::string_view parameters;
  LowerFn lower;
  std::string_view note = {};  // for docs/frontend.md: what is refused, or becomes of it if that is not plain
};

absl::Span<const TargetRow> ElementwiseTargets();
absl::Span<const TargetRow> ConditionTargets();
absl::Span<const TargetRow> CreationTargets();
absl::Span<const TargetRow> ShapeTargets();
absl::Span<const TargetRow> ContractionTargets();
absl::Span<const TargetRow> IdentityTargets();

struct TargetGroup {
  std::string_view heading;
  absl::Span<const TargetRow> rows;
};
std::vector<TargetGroup> TargetGroups();               // all of them
const TargetRow* FindTarget(std::string_view target);  // nullptr if unknown

}  // namespace flashflow::frontend

#endif  // COMPILER_FRONTEND_LOWERING_H_
