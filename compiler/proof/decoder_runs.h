// A decoder in its two forms: the rectangular graph over whole sequences at once, and the step graph over chunks of
// them, through a paged cache.
#ifndef COMPILER_PROOF_DECODER_RUNS_H_
#define COMPILER_PROOF_DECODER_RUNS_H_

#include <cstdint>
#include <random>
#include <vector>

#include "absl/status/statusor.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/graph.h"

namespace flashflow::proof {

using Sequences = std::vector<std::vector<int64_t>>;           // token ids
using Logits = std::vector<std::vector<std::vector<double>>>;  // [sequence][position][vocabulary]; an empty row
                                                               // where none was asked for

// `count` sequences of 1 to `longest` tokens below `vocabulary`.
Sequences RandomSequences(int count, int64_t longest, int64_t vocabulary, std::mt19937& random);

// All sequences as one batch, padded at the end with tokens that causal attention must not let matter: the inputs
// input_ids and, if the graph takes them, position_ids, i64[B, S].
interpreter::Values RectangularInputs(const ir::Graph& graph, const Sequences& sequences);

// The rows of the logits f32[B, S, vocabulary] that are the sequences' own. InvalidArgument for another shape.
absl::StatusOr<Logits> RectangularRows(const interpreter::Value& logits, const Sequences& sequences);

// The logits of a rectangular graph, its only output.
absl::StatusOr<Logits> RunRectangular(const ir::Graph& graph, const interpreter::WeightSource& weights,
                                      const Sequences& sequences, interpreter::Mode mode);

// Random steps until all tokens have passed: each takes some of the sequences in some order, a chunk of each, on pages
// in random order. Logits are asked for in random order, in a few steps for no row. The graph is as kv-cache leaves it.
absl::StatusOr<Logits> RunSteps(const ir::Graph& step_graph, const interpreter::WeightSource& weights,
                                const Sequences& sequences, int64_t page_size, interpreter::Mode mode,
                                std::mt19937& random);

}  // namespace flashflow::proof

#endif  // COMPILER_PROOF_DECODER_RUNS_H_
