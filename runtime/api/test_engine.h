// Engine files of small models with random weights, for tests.
#ifndef RUNTIME_API_TEST_ENGINE_H_
#define RUNTIME_API_TEST_ENGINE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/graph.h"
#include "compiler/passes/options.h"

namespace flashflow::runtime {

// f32 values by name, in the order of the shape. Norm weights are near one, all else has a spread of `spread`, so that
// attention and argmax have something to choose from.
using TestWeights = std::map<std::string, std::vector<float>, std::less<>>;
TestWeights RandomWeights(const ir::Graph& graph, uint32_t seed, float spread = 0.3f);

// The same as the interpreter takes them, in the graph's shapes.
absl::flat_hash_map<std::string, interpreter::Tensor> InterpreterWeights(const ir::Graph& graph,
                                                                         const TestWeights& weights);

// A byte-level BPE tokenizer.json: letters, then a space and a number each.
std::string TestTokenizer(int64_t vocab_size);

// Builds the engine of a rectangular graph, with the tokenizer above and the end-of-sequence token `eos`.
absl::Status BuildTestEngine(const std::string& path, const ir::Graph& rectangular, const TestWeights& weights,
                             const passes::CompileOptions& options, int32_t eos);

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_TEST_ENGINE_H_
