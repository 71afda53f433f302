// What tests of engines share: prompts, and running an engine until nothing is left to do.
#ifndef RUNTIME_API_GENERATE_TESTING_H_
#define RUNTIME_API_GENERATE_TESTING_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/graph.h"
#include "runtime/api/engine.h"

namespace flashflow::runtime {

// Tokens below `vocab`, the same for the same arguments.
std::vector<int32_t> TestPrompt(int64_t length, uint32_t seed, int64_t vocab);

// All events until the engine has no work, by request. CHECKs that no step fails.
std::map<int64_t, std::vector<TokenEvent>> RunAll(Engine& engine);

std::vector<int32_t> Tokens(const std::vector<TokenEvent>& events);

// The tokens that a single request brings.
std::vector<int32_t> Generate(Engine& engine, const std::vector<int32_t>& prompt, const SamplingParams& params);

// The logits after each token.
std::vector<float> Forward(Engine& engine, const std::vector<int32_t>& tokens);

// The same of a rectangular graph in double, the whole sequence at once.
std::vector<double> WideLogits(const ir::Graph& rectangular,
                               absl::flat_hash_map<std::string, interpreter::Tensor> weights,
                               const std::vector<int32_t>& tokens);

// |got - want| over |want|, as vectors.
double RelativeDistance(const std::vector<float>& got, const std::vector<double>& want);

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_GENERATE_TESTING_H_
