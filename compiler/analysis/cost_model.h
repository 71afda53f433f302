// What an operation costs at least: the bytes it must move and the arithmetic it must do, whatever kernel runs it.
#ifndef COMPILER_ANALYSIS_COST_MODEL_H_
#define COMPILER_ANALYSIS_COST_MODEL_H_

#include "absl/status/statusor.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/graph.h"

namespace flashflow::analysis {

// The sizes at which a graph is looked at.
struct Workload {
  SymbolValues symbols;  // all of the graph's
  double context = 0;    // of a step graph: positions in the cache, the step's own included, of each row on average
};

struct OpCost {
  double bytes_read = 0;      // each operand once; of tables and caches only what is looked up
  double bytes_written = 0;   // each result once
  double flops = 0;           // a multiply-add is two
  DType dtype = DType::kF32;  // of the operands of its products: the rate at which the flops can run

  double bytes() const { return bytes_read + bytes_written; }
  friend bool operator==(const OpCost&, const OpCost&) = default;
};

// A reshape, and weights joined by concat or turned into codes, cost nothing: no step runs for them. NotFound names a
// symbol of the node's types that has no value.
absl::StatusOr<OpCost> CostOf(const ir::Node& node, const Workload& workload);

}  // namespace flashflow::analysis

#endif  // COMPILER_ANALYSIS_COST_MODEL_H_
