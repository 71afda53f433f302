#include "runtime/core/sampling_params.h"

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace flashflow::runtime {

absl::Status SamplingParams::Validate() const {
  const auto refuse = [](auto name, auto value, auto allowed) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, ", expected ", allowed));
  };
  if (!(temperature >= 0 && std::isfinite(temperature))) {
    return refuse("temperature", temperature, "a finite number >= 0 (0 is greedy)");
  }
  if (top_k < 0) return refuse("top_k", top_k, "an integer >= 0 (0 keeps all)");
  if (!(top_p > 0 && top_p <= 1)) return refuse("top_p", top_p, "a number in (0, 1]");
  if (!(min_p >= 0 && min_p <= 1)) return refuse("min_p", min_p, "a number in [0, 1]");
  if (!(repetition_penalty > 0 && std::isfinite(repetition_penalty))) {
    return refuse("repetition_penalty", repetition_penalty, "a finite number > 0 (1 is none)");
  }
  if (max_tokens < 1) return refuse("max_tokens", max_tokens, "an integer >= 1");
  if (logprobs < 0 || logprobs > kMaxLogprobs) {
    return refuse("logprobs", logprobs, absl::StrCat("an integer in [0, ", kMaxLogprobs, "]"));
  }
  for (int32_t id : stop_token_ids) {
    if (id < 0) return refuse("stop_token_ids", id, "token ids >= 0");
  }
  return absl::OkStatus();
}

}  // namespace flashflow::runtime
