// Random weights for decoders and the comparison of their logits, for tests that run them (compiler/proof).
#ifndef COMPILER_PASSES_DECODER_RUNS_H_
#define COMPILER_PASSES_DECODER_RUNS_H_

#include <cstdint>
#include <random>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/graph.h"
#include "compiler/proof/decoder_runs.h"
#include "gtest/gtest.h"

namespace flashflow::passes {

using Weights = absl::flat_hash_map<std::string, interpreter::Tensor>;
using proof::Logits;
using proof::Sequences;

// Values of order 1 / sqrt(fan-in) for matrices, of order one for others, rounded to f32.
Weights RandomWeights(const ir::Graph& graph, std::mt19937& random);
// Each row that `got` has against the same row of `want`: |got - want| <= tolerance * max|want| in the row. Fails if
// `got` has no rows at all.
::testing::AssertionResult RowsAgree(const Logits& got, const Logits& want, double tolerance);

// What double-precision evaluation may differ by when sums are taken in another order: every node adds at most its
// number of terms times 2^-53, and a norm may magnify the error of a small row by 1 / sqrt(eps).
double WideTolerance(const ir::Graph& graph, int64_t longest_sum, double norm_eps);

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_DECODER_RUNS_H_
