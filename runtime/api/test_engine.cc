#include "runtime/api/test_engine.h"

#include <cstddef>
#include <random>

#include "absl/log/check.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/api/engine_builder.h"

namespace flashflow::runtime {
namespace {

std::vector<int64_t> ShapeOf(const ir::Value& weight) {
  std::vector<int64_t> shape;
  for (const DimExpr& dim : weight.tensor().shape) shape.push_back(dim.constant().value());
  return shape;
}

}  // namespace

TestWeights RandomWeights(const ir::Graph& graph, uint32_t seed, float spread) {
  TestWeights weights;
  for (const ir::Value* weight : graph.weights()) {
    std::seed_seq seeds(weight->name().begin(), weight->name().end());
    std::mt19937 generator(seeds);
    generator.discard(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    const std::vector<int64_t> shape = ShapeOf(*weight);
    size_t count = 1;
    for (int64_t dim : shape) count *= static_cast<size_t>(dim);
    const bool norm = shape.size() == 1 && absl::EndsWith(weight->name(), ".weight");
    std::vector<float>& values = weights[weight->name()];
    for (size_t i = 0; i < count; ++i) {
      values.push_back(norm ? 1 + 0.2f * uniform(generator) : spread * uniform(generator));
    }
  }
  return weights;
}

absl::flat_hash_map<std::string, interpreter::Tensor> InterpreterWeights(const ir::Graph& graph,
                                                                         const TestWeights& weights) {
  absl::flat_hash_map<std::string, interpreter::Tensor> tensors;
  for (const ir::Value* weight : graph.weights()) {
    std::vector<int64_t> shape;
    for (const DimExpr& dim : weight->tensor().shape) shape.push_back(*dim.constant());
    const std::vector<float>& values = weights.at(weight->name());
    tensors.emplace(weight->name(), interpreter::Tensor::Floats(shape, {values.begin(), values.end()}));
  }
  return tensors;
}

std::string TestTokenizer(int64_t vocab_size) {
  nlohmann::json vocab = nlohmann::json::object();
  for (int64_t id = 0; id < vocab_size; ++id) {
    vocab[id < 26 ? std::string(1, static_cast<char>('a' + id)) : absl::StrCat("\xc4\xa0", id)] = id;
  }
  return nlohmann::json{{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}},
                        {"decoder", {{"type", "ByteLevel"}}},
                        {"added_tokens", nlohmann::json::array()}}
      .dump();
}

absl::Status BuildTestEngine(const std::string& path, const ir::Graph& rectangular, const TestWeights& weights,
                             const passes::CompileOptions& options, int32_t eos) {
  const auto vocab = rectangular.metadata().find("vocab_size");
  CHECK(vocab != rectangular.metadata().end());
  const ModelFiles files = {nlohmann::json{{"name", "tiny"}, {"architecture", "test"}, {"eos_token_ids", {eos}}}.dump(),
                            TestTokenizer(std::get<int64_t>(vocab->second))};
  const auto source = [&](std::string_view name) -> absl::StatusOr<engine::SourceTensor> {
    const auto it = weights.find(name);
    if (it == weights.end()) return absl::NotFoundError(absl::StrCat("no weight ", name));
    return engine::SourceTensor{it->second.data(), DType::kF32, ShapeOf(*rectangular.FindWeight(name))};
  };
  return BuildEngine(path, rectangular, files, options, source);
}

}  // namespace flashflow::runtime
