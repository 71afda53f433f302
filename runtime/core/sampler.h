// Chooses a request's next token from its logits, on the CPU.
#ifndef RUNTIME_CORE_SAMPLER_H_
#define RUNTIME_CORE_SAMPLER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/core/sampling_params.h"

namespace flashflow::runtime {

struct SampledToken {
  int32_t token = 0;
  // Of the model's own distribution: before penalty, temperature and filters. Filled if params.logprobs > 0.
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top_logprobs;  // most probable first
};

// One request's sampler. A draw is a function of (seed, index, logits, tokens seen), never of the batch around it.
class Sampler {
 public:
  explicit Sampler(SamplingParams params) : params_(std::move(params)) {}  // params must have passed Validate()

  // Tells of tokens in the sequence, for the repetition penalty: the prompt's and each one generated.
  void Observe(absl::Span<const int32_t> tokens);

  // logits[vocab], at least one. `index` counts the draws of this request. Internal error if a logit is not finite.
  absl::StatusOr<SampledToken> Sample(absl::Span<const float> logits, uint64_t index) const;

 private:
  int32_t Draw(absl::Span<const float> logits, uint64_t index) const;

  SamplingParams params_;
  absl::flat_hash_set<int32_t> seen_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_SAMPLER_H_
