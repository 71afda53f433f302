#include "tools/tune/model_problems.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Two equal layers of all tokens, and a head of the rows with logits.
plan::Plan TwoLayersAndAHead() {
  const DimExpr T = DimExpr::Symbol("T"), L = DimExpr::Symbol("L");
  using plan::Storage;
  plan::Plan plan;
  plan.limits = {.context_length = 64, .max_tokens = 32, .max_rows = 32, .max_logit_rows = 32};
  plan.tensors = {{"x", DType::kF32, {T, 8}, Storage::kArena, -1},
                  {"w", DType::kBF16, {16, 8}, Storage::kWeight, 0},
                  {"", DType::kF32, {L, 8}, Storage::kArena, -1},
                  {"head", DType::kBF16, {50, 8}, Storage::kWeight, 1}};
  const auto step = [](std::string op, std::vector<int32_t> inputs, AttrMap attrs) {
    plan::Step step;
    step.op = std::move(op);
    step.inputs = std::move(inputs);
    step.attrs = std::move(attrs);
    return step;
  };
  plan.steps = {step("fused_linear", {0, 1, -1}, {{"gated", true}}), step("fused_linear", {0, 1}, {{"gated", true}}),
                step("softmax", {0}, {}), step("linear", {2, 3}, {})};
  return plan;
}

TEST(ModelProblemsTest, AreEachThereOnce) {
  const auto problems = ProblemsOfPlan(TwoLayersAndAHead(), {1, 16, 17});
  ASSERT_TRUE(problems.ok()) << problems.status();
  std::vector<std::string> texts;
  for (const kernels::Problem& problem : *problems) texts.push_back(kernels::ProblemToText(problem));
  EXPECT_THAT(texts, ElementsAre("fused_linear/bf16/m=1,n=16,k=8,gated", "linear/bf16/m=1,n=50,k=8",
                                 "fused_linear/bf16/m=16,n=16,k=8,gated", "linear/bf16/m=16,n=50,k=8",
                                 "fused_linear/bf16/m=17,n=16,k=8,gated"))
      << "a prompt of 17 tokens has one row of logits, which is known by then";
}

TEST(ModelProblemsTest, StepsThatThePlanDoesNotTake) {
  for (const int64_t tokens : {0, 33}) {
    const absl::Status status = ProblemsOfPlan(TwoLayersAndAHead(), {tokens}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("takes 1 to 32"));
  }
}

}  // namespace
}  // namespace flashflow::tools
