#include "runtime/api/generate_testing.h"

#include <cmath>
#include <cstddef>
#include <utility>
#include <variant>

#include "absl/log/check.h"
#include "absl/types/span.h"

namespace flashflow::runtime {

std::vector<int32_t> TestPrompt(int64_t length, uint32_t seed, int64_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i) {
    seed = seed * 1664525 + 1013904223;
    tokens.push_back(static_cast<int32_t>((seed >> 16) % vocab));
  }
  return tokens;
}

std::map<int64_t, std::vector<TokenEvent>> RunAll(Engine& engine) {
  std::map<int64_t, std::vector<TokenEvent>> events;
  while (engine.HasWork()) {
    const auto step = engine.Step();
    CHECK_OK(step.status());
    for (const TokenEvent& event : *step) events[event.request].push_back(event);
  }
  return events;
}

std::vector<int32_t> Tokens(const std::vector<TokenEvent>& events) {
  std::vector<int32_t> tokens;
  for (const TokenEvent& event : events) tokens.push_back(event.token);
  return tokens;
}

std::vector<int32_t> Generate(Engine& engine, const std::vector<int32_t>& prompt, const SamplingParams& params) {
  CHECK_OK(engine.Submit(prompt, params).status());
  return Tokens(RunAll(engine).begin()->second);
}

std::vector<float> Forward(Engine& engine, const std::vector<int32_t>& tokens) {
  std::vector<float> logits(tokens.size() * static_cast<size_t>(engine.info().vocab_size));
  CHECK_OK(engine.Forward(tokens, absl::MakeSpan(logits)));
  return logits;
}

std::vector<double> WideLogits(const ir::Graph& rectangular,
                               absl::flat_hash_map<std::string, interpreter::Tensor> weights,
                               const std::vector<int32_t>& tokens) {
  const std::vector<int64_t> shape = {1, static_cast<int64_t>(tokens.size())};
  std::vector<int64_t> positions;
  for (size_t i = 0; i < tokens.size(); ++i) positions.push_back(static_cast<int64_t>(i));
  interpreter::Values inputs;
  inputs.emplace("input_ids", interpreter::Tensor::Ints(shape, {tokens.begin(), tokens.end()}, DType::kI64));
  inputs.emplace("position_ids", interpreter::Tensor::Ints(shape, positions, DType::kI64));
  auto outputs = interpreter::Interpret(rectangular, std::move(inputs), interpreter::WeightsFrom(std::move(weights)),
                                        interpreter::Mode::kWide);
  CHECK_OK(outputs.status());
  return std::get<interpreter::Tensor>(outputs->at("logits")).floats;
}

double RelativeDistance(const std::vector<float>& got, const std::vector<double>& want) {
  CHECK_EQ(got.size(), want.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

}  // namespace flashflow::runtime
