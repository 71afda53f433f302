#include "kernels/registry/problem.h"

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::kernels {
namespace {

using ::testing::HasSubstr;

Problem Parsed(const std::string& text) {
  const absl::StatusOr<Problem> problem = ParseProblem(text);
  EXPECT_TRUE(problem.ok()) << problem.status();
  return problem.ok() ? *problem : Problem();
}

TEST(ProblemTest, TextsRoundTrip) {
  for (const char* text : {"linear/bf16/m=1,n=2304,k=768", "fused_linear/f32/m=7,n=3072,k=576,gated,residual",
                           "attention/bf16/batch=8,heads=12,kv_heads=4,q_tokens=1024,kv_tokens=1024,head_dim=64,causal",
                           "paged_attention/f16/rows=64,heads=9,kv_heads=3,context=1000,head_dim=64",
                           "quantize/f32/rows=7,columns=768", "softmax/bf16/rows=1,columns=2147483647"}) {
    EXPECT_EQ(ProblemToText(Parsed(text)), text);
  }
  const Problem problem = Parsed("fused_linear/bf16/k=576,m=7,gated=0,n=3072,activated=1");
  EXPECT_EQ(ProblemToText(problem), "fused_linear/bf16/m=7,n=3072,k=576,activated");
  EXPECT_EQ(SizeOf(problem, "k"), 576);
}

TEST(ProblemTest, EveryMistakeIsNamed) {
  const auto error = [](const std::string& text) { return std::string(ParseProblem(text).status().message()); };
  EXPECT_THAT(error("linear"), HasSubstr("expected op/dtype/sizes"));
  EXPECT_THAT(error("linear/bf16/m=1/n=2"), HasSubstr("expected op/dtype/sizes"));
  EXPECT_THAT(error("conv/bf16/m=1"), HasSubstr("op \"conv\" has no tactics; ops: linear, fused_linear, attention"));
  EXPECT_THAT(error("linear/b16/m=1,n=1,k=1"), HasSubstr("\"b16\" is no dtype"));
  EXPECT_THAT(error("linear/bf16/m=1,n=1"), HasSubstr("k is missing"));
  EXPECT_THAT(error("linear/bf16/m=1,n=1,k=1,k=2"), HasSubstr("k is given twice"));
  EXPECT_THAT(error("linear/bf16/m=1,n=1,k=1,x=2"), HasSubstr("\"x\" is no size of linear; it has m, n, k, gated"));
  EXPECT_THAT(error("linear/bf16/m=0,n=1,k=1"), HasSubstr("m is 0; expected 1 to"));
  EXPECT_THAT(error("linear/bf16/m=1,n=2147483648,k=1"), HasSubstr("n is 2147483648"));
  EXPECT_THAT(error("linear/bf16/m=1,n=1,k=-4"), HasSubstr("k is -4"));
  EXPECT_THAT(error("linear/bf16/m=1,n=1,k=1,gated=2"), HasSubstr("gated is 2; expected 0 or 1"));
  EXPECT_THAT(error("linear/bf16/m=1x,n=1,k=1"), HasSubstr("\"m=1x\" is no size"));
  EXPECT_EQ(ParseProblem("conv/bf16/m=1").status().code(), absl::StatusCode::kNotFound);
}

TEST(ProblemTest, BucketsHoldWhatGrowsFromStepToStep) {
  const auto bucket = [](int64_t m) {
    return ShapeBucket(*MakeProblem("linear", DType::kF32, {{"m", m}, {"n", 48}, {"k", 7}}));
  };
  EXPECT_EQ(bucket(1), "m=1,n=48,k=7");
  EXPECT_EQ(bucket(2), "m=2,n=48,k=7");
  EXPECT_EQ(bucket(3), "m=3..4,n=48,k=7");
  EXPECT_EQ(bucket(4), bucket(3));
  EXPECT_EQ(bucket(5), "m=5..8,n=48,k=7");
  EXPECT_EQ(bucket(129), "m=129..256,n=48,k=7");
  EXPECT_EQ(bucket(256), bucket(129));
  EXPECT_EQ(bucket(2147483647), "m=1073741825..2147483648,n=48,k=7");
  EXPECT_EQ(ShapeBucket(Parsed("fused_linear/f32/m=1,n=48,k=7,gated")), "m=1,n=48,k=7,gated");
  EXPECT_EQ(ShapeBucket(Parsed("attention/bf16/batch=3,heads=12,kv_heads=12,q_tokens=1,kv_tokens=100,head_dim=64")),
            "batch=3..4,heads=12,kv_heads=12,q_tokens=1,kv_tokens=65..128,head_dim=64");
}

TEST(ProblemTest, CostsAreEachOperandOnce) {
  const ProblemCost linear = CostOfProblem(Parsed("linear/bf16/m=3,n=10,k=7"), DType::kF32);
  EXPECT_EQ(linear.bytes, 10 * 7 * 2 + 3 * 7 * 4 + 3 * 10 * 4);
  EXPECT_EQ(linear.flops, 2 * 3 * 10 * 7);
  const ProblemCost gated = CostOfProblem(Parsed("fused_linear/bf16/m=3,n=10,k=7,gated,residual"), DType::kBF16);
  EXPECT_EQ(gated.bytes, 10 * 7 * 2 + 3 * 7 * 2 + 2 * 3 * 5 * 2);
  EXPECT_EQ(CostOfProblem(Parsed("linear/bf16/m=3,n=10,k=7,f32_output"), DType::kBF16).bytes,
            10 * 7 * 2 + 3 * 7 * 2 + 3 * 10 * 4);
  // Three queries at the end of five positions see 3 + 4 + 5.
  const std::string attention = "attention/bf16/batch=2,heads=4,kv_heads=1,q_tokens=3,kv_tokens=5,head_dim=8";
  EXPECT_EQ(CostOfProblem(Parsed(attention + ",causal"), DType::kBF16).flops, 2 * 4 * 12 * 8 * 4);
  EXPECT_EQ(CostOfProblem(Parsed(attention), DType::kBF16).flops, 2 * 4 * 15 * 8 * 4);
  EXPECT_EQ(CostOfProblem(Parsed(attention), DType::kBF16).bytes, 2 * 8 * 2 * (2 * 3 * 4 + 2 * 5 * 1));
  // Two rows of four query heads and two of keys and values, five positions of eight elements.
  const ProblemCost paged =
      CostOfProblem(Parsed("paged_attention/bf16/rows=2,heads=4,kv_heads=2,context=5,head_dim=8"), DType::kBF16);
  EXPECT_EQ(paged.bytes, 2 * 2 * 8 * (4 + 4 + 5 * (2 + 2)));
  EXPECT_EQ(paged.flops, 2 * 4 * 5 * 8 * 4);
  EXPECT_EQ(CostOfProblem(Parsed("softmax/bf16/rows=3,columns=5"), DType::kBF16).bytes, 60);
  EXPECT_EQ(CostOfProblem(Parsed("quantize/bf16/rows=3,columns=5"), DType::kBF16).bytes, 3 * (5 * 2 + 5 + 4));
}

}  // namespace
}  // namespace flashflow::kernels
