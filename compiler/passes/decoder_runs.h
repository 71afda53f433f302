// Running a decoder in its two forms with the interpreter, for tests: the rectangular graph over whole sequences at
// once, and the step graph over chunks of them, through a paged cache.
#ifndef COMPILER_PASSES_DECODER_RUNS_H_
#define COMPILER_PASSES_DECODER_RUNS_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/graph.h"
#include "gtest/gtest.h"

namespace flashflow::passes {

using Weights = absl::flat_hash_map<std::string, interpreter::Tensor>;
using Sequences = std::vector<std::vector<int64_t>>;           // token ids
using Logits = std::vector<std::vector<std::vector<double>>>;  // [sequence][position][vocabulary]; an empty row
                                                               // where none was asked for

// Values of order 1 / sqrt(fan-in) for matrices, of order one for others, rounded to f32.
Weights RandomWeights(const ir::Graph& graph, std::mt19937& random);
// `count` sequences of 1 to `longest` tokens below `vocabulary`.
Sequences RandomSequences(int count, int64_t longest, int64_t vocabulary, std::mt19937& random);

// All sequences as one batch, padded at the end with tokens that causal attention must not let matter.
absl::StatusOr<Logits> RunRectangular(const ir::Graph& graph, const Weights& weights, const Sequences& sequences,
                                      int64_t vocabulary, interpreter::Mode mode);

// Random steps until all tokens have passed: each takes some of the sequences in some order, a chunk of each, on pages
// in random order. Logits are asked for in random order, in a few steps for no row.
absl::StatusOr<Logits> RunSteps(const ir::Graph& step_graph, const Weights& weights, const Sequences& sequences,
                                int64_t page_size, interpreter::Mode mode, std::mt19937& random);

// Each row that `got` has against the same row of `want`: |got - want| <= tolerance * max|want| in the row. Fails if
// `got` has no rows at all.
::testing::AssertionResult RowsAgree(const Logits& got, const Logits& want, double tolerance);

// What double-precision evaluation may differ by when sums are taken in another order: every node adds at most its
// number of terms times 2^-53, and a norm may magnify the error of a small row by 1 / sqrt(eps).
double WideTolerance(const ir::Graph& graph, int64_t longest_sum, double norm_eps);

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_DECODER_RUNS_H_
