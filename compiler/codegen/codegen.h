// From a graph to a Plan: kernels, weight layouts and memory.
#ifndef COMPILER_CODEGEN_CODEGEN_H_
#define COMPILER_CODEGEN_CODEGEN_H_

#include "absl/status/statusor.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/options.h"
#include "compiler/plan/plan.h"

namespace flashflow::codegen {

// The graph is a verified step graph: inputs as in compiler/plan/plan.h and "cache", outputs "logits" and "cache".
// Reshapes become aliases; every other node becomes a step with the kernels that the catalog has for options.device. A
// result takes the place of an operand that no later step reads, where all the step's kernels allow it.
// Weights are listed once for each layout that a kernel wants. Buckets hold 1, 2, 4, ... options.max_tokens tokens.
// The same graph and options give the same plan; graph_sha256 is left empty.
//
// Unimplemented for an op without a kernel (names it, its dtypes, its location and why each kernel was refused);
// InvalidArgument for a graph that is not of this form.
absl::StatusOr<plan::Plan> GeneratePlan(const ir::Graph& graph, const passes::CompileOptions& options);

// The same for a rectangular graph: any symbols, any tensors as inputs and outputs, no cache. The plan has no limits
// and no buckets; PlanArena makes its arenas. On CUDA a cast of a vector to f32 that is made of weights alone is no
// step: the plan lists a weight in f32, and whoever brings it widens its sources.
absl::StatusOr<plan::Plan> GenerateGraphPlan(const ir::Graph& graph, const passes::CompileOptions& options);

// The arena of a rectangular graph's plan for symbols of at most the values `most`. NotFound for a symbol of the plan
// without a value; OutOfRange for sizes past int64.
absl::StatusOr<plan::ArenaLayout> PlanArena(const plan::Plan& plan, const SymbolValues& most);

}  // namespace flashflow::codegen

#endif  // COMPILER_CODEGEN_CODEGEN_H_
