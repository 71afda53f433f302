// Random values to evaluate graphs with: for symbols, inputs and weights.
#ifndef COMPILER_PROOF_RANDOM_CASE_H_
#define COMPILER_PROOF_RANDOM_CASE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/graph.h"

namespace flashflow::proof {

// One setting, the same for every graph that is evaluated in it.
struct Case {
  uint64_t seed = 0;
  SymbolValues symbols;
  // Inputs that only make sense together. Of a step graph: row_start, kv_len, block_table, positions and logit_rows of
  // a ragged batch, some rows with a past in the cache and some without.
  interpreter::Values roles;
  bool positive = false;  // floats of one sign: for what has no value for negative numbers
};

// Tokens in a page, and pages, of a cache that inputs are made for.
inline constexpr int64_t kCasePageSize = 4;
inline constexpr int64_t kCasePages = 32;

// `count` settings for a graph and what passes make of it. The first has small dims above the symbols' minimum, every
// third one the minimum itself.
std::vector<Case> MakeCases(const ir::Graph& graph, int count, uint64_t seed);

// Whether `graph` is over packed tokens and a paged cache: it has the inputs that say which rows there are.
bool IsStepGraph(const ir::Graph& graph);

// A value for each input of any of the graphs, by name. Floats have a variance of one and are values of f32; if
// `round_to_narrowest`, of the narrowest type that any of the graphs gives the input, and where any of them turns its
// rows into int8 codes, of values that codes hold. Integers without a role are below
// `index_limit`. A cache holds values where the case's rows have some and NaN elsewhere. Errors: a dim without a value.
absl::StatusOr<interpreter::Values> RandomInputs(absl::Span<const ir::Graph* const> graphs, const Case& setting,
                                                 int64_t index_limit, bool round_to_narrowest);

// Those that the graph has: what Interpret takes.
interpreter::Values InputsOf(const ir::Graph& graph, const interpreter::Values& values);

// Weights of any of the graphs, by name, made when asked for: uniform, matrices of variance 1 / fan-in. The graphs must
// outlive it.
interpreter::WeightSource RandomWeightSource(std::vector<const ir::Graph*> graphs, const Case& setting,
                                             int64_t index_limit, bool round_to_narrowest);

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_RANDOM_CASE_H_
