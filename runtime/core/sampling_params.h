// How a request's next token is chosen from its logits.
#ifndef RUNTIME_CORE_SAMPLING_PARAMS_H_
#define RUNTIME_CORE_SAMPLING_PARAMS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace flashflow::runtime {

inline constexpr int kMaxLogprobs = 100;

// Applied in this order: repetition penalty, temperature, top-k, top-p, min-p.
struct SamplingParams {
  float temperature = 1.0f;         // 0: greedy (the largest logit; the lowest id among equals)
  int top_k = 0;                    // keep the k most probable tokens; 0: all
  float top_p = 1.0f;               // keep the fewest tokens whose probabilities reach this sum
  float min_p = 0.0f;               // drop tokens less probable than min_p times the most probable one
  float repetition_penalty = 1.0f;  // divides (or, below 0, multiplies) the logits of tokens seen so far
  uint64_t seed = 0;                // same seed, prompt and engine: same tokens, whatever else runs
  int max_tokens = 128;
  std::vector<int32_t> stop_token_ids;  // besides the model's own end-of-sequence ids
  bool ignore_eos = false;
  int logprobs = 0;  // how many of the most probable tokens to report with their log-probabilities

  // InvalidArgument naming the first parameter that is out of range (NaN is), its value and what is allowed.
  absl::Status Validate() const;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_SAMPLING_PARAMS_H_
