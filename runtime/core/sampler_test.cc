#include "runtime/core/sampler.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

using ::testing::HasSubstr;

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

std::map<int32_t, int> Draws(const SamplingParams& params, const std::vector<float>& logits, int count) {
  const Sampler sampler(params);
  std::map<int32_t, int> seen;
  for (int i = 0; i < count; ++i) ++seen[sampler.Sample(logits, i)->token];
  return seen;
}

std::set<int32_t> Support(const SamplingParams& params, const std::vector<float>& logits) {
  std::set<int32_t> ids;
  for (const auto& [id, n] : Draws(params, logits, 4000)) ids.insert(id);
  return ids;
}

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(Sampler(Greedy()).Sample({0.5f, 2.0f, -1.0f, 2.0f}, 0)->token, 1);
  EXPECT_EQ(Sampler(Greedy()).Sample({-3.0f}, 0)->token, 0);
}

// More logits than are compared side by side: wherever the largest is, or one that is not finite.
TEST(SamplerTest, EveryLogitOfAVocabularyIsLookedAt) {
  for (size_t i = 0; i < 37; ++i) {
    std::vector<float> logits(37, -2.0f);
    logits[i] = -1.0f;
    EXPECT_EQ(Sampler(Greedy()).Sample(logits, 0)->token, static_cast<int32_t>(i));
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
      logits[i] = bad;
      EXPECT_EQ(Sampler(Greedy()).Sample(logits, 0).status().code(), absl::StatusCode::kInternal) << i;
    }
  }
}

TEST(SamplerTest, FrequenciesFollowTheSoftmax) {
  SamplingParams params;
  params.temperature = 2.0f;
  const std::vector<float> logits = {0, 1, 2, 3};
  constexpr int kDraws = 40000;
  double total = 0;
  for (float x : logits) total += std::exp(x / 2);
  const auto seen = Draws(params, logits, kDraws);
  for (int id = 0; id < 4; ++id) {
    const double p = std::exp(logits[id] / 2) / total;
    // Five standard deviations of a binomial share.
    EXPECT_NEAR(seen.at(id) / double{kDraws}, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << id;
  }
}

TEST(SamplerTest, TopKKeepsTheKLargest) {
  SamplingParams params;
  params.top_k = 2;
  EXPECT_EQ(Support(params, {1.0f, 1.2f, 0.9f, 1.1f}), (std::set<int32_t>{1, 3}));
  params.top_k = 100;  // more than there are: no filter
  EXPECT_EQ(Support(params, {1.0f, 1.2f, 0.9f, 1.1f}).size(), 4u);
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachTheSum) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {std::log(4.0f), std::log(2.0f), 0.0f, 0.0f};
  SamplingParams params;
  params.top_p = 0.45f;
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0}));
  params.top_p = 0.7f;
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0, 1}));
  params.top_p = 0.8f;  // of the two equal ones, the lower id is kept
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0, 1, 2}));
}

TEST(SamplerTest, TopPCountsWhatTopKKept) {
  const std::vector<float> logits = {std::log(4.0f), std::log(2.0f), 0.0f, 0.0f};
  SamplingParams params;
  params.top_k = 2;     // 2/3 and 1/3 after renormalizing
  params.top_p = 0.6f;  // of all four, 0.5 would not reach 0.6
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0}));
}

TEST(SamplerTest, MinPIsRelativeToTheMostProbable) {
  const std::vector<float> logits = {std::log(10.0f), std::log(4.0f), std::log(1.5f)};
  SamplingParams params;
  params.min_p = 0.2f;
  EXPECT_EQ(Support(params, logits), (std::set<int32_t>{0, 1}));
}

TEST(SamplerTest, RepetitionPenaltyLowersWhatWasSeenWhateverItsSign) {
  SamplingParams params = Greedy();
  params.repetition_penalty = 2.0f;
  Sampler sampler(params);
  EXPECT_EQ(sampler.Sample({3.0f, 2.0f}, 0)->token, 0);
  sampler.Observe({0});
  EXPECT_EQ(sampler.Sample({3.0f, 2.0f}, 0)->token, 1);    // 3 / 2 < 2
  EXPECT_EQ(sampler.Sample({-1.0f, -1.5f}, 0)->token, 1);  // -1 * 2 < -1.5
  sampler.Observe({0, 0, 7});                              // once is enough, and 7 is outside these logits
  EXPECT_EQ(sampler.Sample({5.0f, 2.0f}, 0)->token, 0);    // 5 / 2 > 2: not divided twice
}

TEST(SamplerTest, SameSeedAndIndexSameToken) {
  SamplingParams params;
  std::vector<float> logits(1000);
  for (int i = 0; i < 1000; ++i) logits[i] = std::sin(i);
  std::vector<int32_t> a, b, other;
  for (int i = 0; i < 20; ++i) {
    params.seed = 5;
    a.push_back(Sampler(params).Sample(logits, i)->token);
    b.push_back(Sampler(params).Sample(logits, i)->token);
    params.seed = 6;
    other.push_back(Sampler(params).Sample(logits, i)->token);
  }
  EXPECT_EQ(a, b);
  EXPECT_NE(a, other);
  EXPECT_GT(std::set<int32_t>(a.begin(), a.end()).size(), 10u);
}

TEST(SamplerTest, LogprobsAreOfTheModelsOwnDistribution) {
  SamplingParams params = Greedy();
  params.logprobs = 2;
  params.repetition_penalty = 100.0f;
  Sampler sampler(params);
  sampler.Observe({2});
  const auto out = sampler.Sample({0.0f, std::log(2.0f), std::log(5.0f)}, 0);
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->token, 1);
  EXPECT_NEAR(out->logprob, std::log(2.0 / 8), 1e-6);
  ASSERT_EQ(out->top_logprobs.size(), 2u);
  EXPECT_EQ(out->top_logprobs[0].first, 2);
  EXPECT_NEAR(out->top_logprobs[0].second, std::log(5.0 / 8), 1e-6);
  EXPECT_EQ(out->top_logprobs[1].first, 1);
}

TEST(SamplerTest, LogitsThatAreNotFiniteAreAnError) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    const auto out = Sampler(Greedy()).Sample({0.0f, 1.0f, bad}, 0);
    EXPECT_EQ(out.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(out.status().message(), HasSubstr("token 2"));
  }
}

TEST(SamplerTest, LargeLogitsDoNotOverflow) {
  SamplingParams params;
  params.temperature = 0.01f;
  EXPECT_EQ(Support(params, {1e30f, 3e38f, -3e38f}), (std::set<int32_t>{1}));
}

TEST(SamplingParamsTest, NamesWhatIsOutOfRange) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto message = [](auto change) {
    SamplingParams params;
    change(params);
    const absl::Status status = params.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_TRUE(SamplingParams().Validate().ok());
  EXPECT_TRUE(Greedy().Validate().ok());
  EXPECT_THAT(message([](auto& p) { p.temperature = -0.1f; }), HasSubstr("temperature is -0.1"));
  EXPECT_THAT(message([&](auto& p) { p.temperature = nan; }), HasSubstr("temperature"));
  EXPECT_THAT(message([](auto& p) { p.top_k = -1; }), HasSubstr("top_k is -1"));
  EXPECT_THAT(message([](auto& p) { p.top_p = 0; }), HasSubstr("top_p is 0"));
  EXPECT_THAT(message([](auto& p) { p.top_p = 1.5f; }), HasSubstr("top_p"));
  EXPECT_THAT(message([](auto& p) { p.min_p = 2; }), HasSubstr("min_p"));
  EXPECT_THAT(message([](auto& p) { p.repetition_penalty = 0; }), HasSubstr("repetition_penalty"));
  EXPECT_THAT(message([](auto& p) { p.max_tokens = 0; }), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(message([](auto& p) { p.logprobs = 101; }), HasSubstr("logprobs"));
  EXPECT_THAT(message([](auto& p) { p.stop_token_ids = {3, -1}; }), HasSubstr("stop_token_ids"));
}

}  // namespace
}  // namespace flashflow::runtime
