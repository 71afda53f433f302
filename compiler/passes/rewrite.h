// What passes that rewrite single values share: questions about a value's definition, and the sweep that applies rules.
#ifndef COMPILER_PASSES_REWRITE_H_
#define COMPILER_PASSES_REWRITE_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/pass.h"

namespace flashflow::passes {

// The node that defines the value, if it is of this op; nullptr otherwise, also for a value that is nullptr.
ir::Node* DefinedBy(const ir::Value* value, ir::Op op);

// The number that all elements of a constant have.
std::optional<double> ConstantValue(const ir::Value* value);
bool IsConstant(const ir::Value* value, double number);

// A node before `before` and at its location.
absl::StatusOr<ir::Value*> AddBefore(ir::Graph* graph, ir::Node* before, ir::Op op, std::vector<ir::Value*> operands,
                                     AttrMap attrs = {});

// What may stand for the node's result, or nullptr where the rule does not apply. A rule may add nodes before the node;
// it changes nothing else.
using RewriteRule = absl::StatusOr<ir::Value*> (*)(ir::Graph* graph, ir::Node* node, PassContext* context);

// Sweeps over the used nodes of one result in program order, replacing each result by what the first rule that applies
// gives, until a sweep finds nothing. Whether anything was replaced. The caller's rules must come to an end.
absl::StatusOr<bool> ApplyRules(ir::Graph* graph, absl::Span<const RewriteRule> rules, PassContext* context);

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_REWRITE_H_
