// The whole compiler in one call: a rectangular graph in, a Plan out, for serving with a KV cache or as it is.
#ifndef COMPILER_DRIVER_COMPILE_H_
#define COMPILER_DRIVER_COMPILE_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/options.h"
#include "compiler/passes/pass_manager.h"
#include "compiler/plan/plan.h"

namespace flashflow::driver {

struct CompiledModel {
  std::unique_ptr<ir::Graph> step_graph;
  plan::Plan plan;                          // graph_sha256 is that of the printed graph that was given to Compile
  std::vector<passes::PassRecord> records;  // what each pass did, with the reasons of what it refused
};

// Passes, then code generation. FailedPrecondition, with the passes' reasons, if no step graph can be made of the
// graph.
absl::StatusOr<CompiledModel> Compile(const ir::Graph& rectangular, const passes::CompileOptions& options);

struct CompiledRectangle {
  std::unique_ptr<ir::Graph> graph;  // after the passes, still rectangular
  plan::Plan plan;                   // see plan.h; PlanGraphArena lays its arenas out
  std::vector<passes::PassRecord> records;
};

// A graph of any inputs and outputs, compiled to run as it is, without a KV cache. Weights keep their dtypes. Nothing
// is taken for granted of its inputs: consecutive_positions is 0 whatever the options say.
absl::StatusOr<CompiledRectangle> CompileGraph(const ir::Graph& rectangular, const passes::CompileOptions& options);

// As codegen::PlanArena.
absl::StatusOr<plan::ArenaLayout> PlanGraphArena(const plan::Plan& plan, const SymbolValues& most);

// The graph as an engine file keeps it: still rectangular, cleaned, its weights in the chosen dtype. Its metadata says
// `dtype`, `quantize` and `kv_dtype`, so that Compile makes the same model of it without being told again.
absl::StatusOr<std::unique_ptr<ir::Graph>> PrepareForStorage(const ir::Graph& rectangular,
                                                             const passes::CompileOptions& options);

}  // namespace flashflow::driver

#endif  // COMPILER_DRIVER_COMPILE_H_
