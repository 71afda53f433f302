#include "runtime/core/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "runtime/core/philox.h"

namespace flashflow::runtime {
namespace {

struct Candidate {
  int32_t id;
  float logit;
};

// The order of preference: larger logits first, lower ids among equals.
bool Before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

// For std heaps, whose top is the largest element: the most preferred candidate.
bool HeapOrder(const Candidate& a, const Candidate& b) { return Before(b, a); }

absl::StatusOr<float> CheckedMax(absl::Span<const float> logits) {
  // Side by side: one chain of comparisons over a vocabulary takes as long as some layers.
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> most, not_finite{};  // sums of x - x: 0 of what is finite, NaN of all else
  most.fill(-INFINITY);
  const size_t whole = logits.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float logit = logits[i + lane];
      most[lane] = most[lane] < logit ? logit : most[lane];
      not_finite[lane] += logit - logit;
    }
  }
  float max = *std::ranges::max_element(most);
  bool finite = std::ranges::all_of(not_finite, [](float sum) { return sum == 0; });
  for (const float logit : logits.subspan(whole)) {
    finite &= std::isfinite(logit);
    max = std::max(max, logit);
  }
  if (finite) return max;
  const auto bad = std::find_if(logits.begin(), logits.end(), [](float x) { return !std::isfinite(x); });
  return absl::InternalError(absl::StrCat("the model gave the logit ", *bad, " for token ", bad - logits.begin(),
                                          ": its weights or its inputs overflow in this dtype; try --dtype float32"));
}

double LogSumExp(absl::Span<const float> logits, float max) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  return max + std::log(sum);
}

std::vector<Candidate> AllCandidates(absl::Span<const float> logits) {
  std::vector<Candidate> all(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) all[i] = {static_cast<int32_t>(i), logits[i]};
  return all;
}

}  // namespace

void Sampler::Observe(absl::Span<const int32_t> tokens) {
  if (params_.repetition_penalty == 1.0f) return;
  seen_.insert(tokens.begin(), tokens.end());
}

absl::StatusOr<SampledToken> Sampler::Sample(absl::Span<const float> logits, uint64_t index) const {
  const absl::StatusOr<float> max = CheckedMax(logits);
  if (!max.ok()) return max.status();

  std::vector<float> penalized;
  absl::Span<const float> adjusted = logits;
  if (!seen_.empty()) {
    penalized.assign(logits.begin(), logits.end());
    for (const int32_t id : seen_) {
      if (id < 0 || static_cast<size_t>(id) >= penalized.size()) continue;
      float& logit = penalized[id];
      logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    }
    adjusted = penalized;
  }

  SampledToken out;
  if (params_.temperature == 0) {
    const auto best = penalized.empty() ? std::find(logits.begin(), logits.end(), *max)
                                        : std::max_element(adjusted.begin(), adjusted.end());
    out.token = static_cast<int32_t>(best - adjusted.begin());
  } else {
    out.token = Draw(adjusted, index);
  }

  if (params_.logprobs > 0) {
    const double log_sum = LogSumExp(logits, *max);
    out.logprob = static_cast<float>(logits[out.token] - log_sum);
    std::vector<Candidate> top = AllCandidates(logits);
    const size_t count = std::min<size_t>(params_.logprobs, top.size());
    std::partial_sort(top.begin(), top.begin() + count, top.end(), Before);
    for (size_t i = 0; i < count; ++i) {
      out.top_logprobs.emplace_back(top[i].id, static_cast<float>(top[i].logit - log_sum));
    }
  }
  return out;
}

int32_t Sampler::Draw(absl::Span<const float> logits, uint64_t index) const {
  std::vector<Candidate> kept = AllCandidates(logits);
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < kept.size()) {
    std::nth_element(kept.begin(), kept.begin() + params_.top_k, kept.end(), Before);
    kept.resize(params_.top_k);
  }
  const float max = std::min_element(kept.begin(), kept.end(), Before)->logit;
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - max) / params_.temperature);
  };
  if (params_.top_p < 1) {
    // A heap gives the most probable first; usually few are needed, and sorting all would cost ten times as much.
    double total = 0;
    for (const Candidate& c : kept) total += weight(c);
    std::make_heap(kept.begin(), kept.end(), HeapOrder);
    std::vector<Candidate> nucleus;
    for (double sum = 0; !kept.empty() && sum < params_.top_p * total;) {
      std::pop_heap(kept.begin(), kept.end(), HeapOrder);
      nucleus.push_back(kept.back());
      sum += weight(kept.back());
      kept.pop_back();
    }
    kept = std::move(nucleus);
  }
  if (params_.min_p > 0) {
    std::erase_if(kept, [&](const Candidate& c) { return weight(c) < params_.min_p; });  // the largest weight is 1
  }
  // One order for the sum, whatever the filters did above.
  std::sort(kept.begin(), kept.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  double total = 0;
  for (const Candidate& c : kept) total += weight(c);
  double left = PhiloxUniform(params_.seed, index) * total;
  for (const Candidate& c : kept) {
    left -= weight(c);
    if (left < 0) return c.id;
  }
  return kept.back().id;  // rounding used up the last of `left`
}

}  // namespace flashflow::runtime
