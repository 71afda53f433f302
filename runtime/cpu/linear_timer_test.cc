#include "runtime/cpu/linear_timer.h"

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/cpu_tactics.h"

namespace flashflow::runtime {
namespace {

using ::testing::HasSubstr;

kernels::Problem P(const std::string& text) { return *kernels::ParseProblem(text); }

TEST(LinearTimerTest, TimesWhatTheSpaceHolds) {
  const auto memory = TimingMemory::Create(2, int64_t{1} << 16);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const kernels::DeviceLimits cpu = kernels::CpuLimits("C");
  for (const char* text :
       {"linear/f32/m=1,n=17,k=5", "linear/bf16/m=20,n=48,k=33", "fused_linear/f32/m=9,n=34,k=8,gated"}) {
    const auto timer = CreateLinearTimer(P(text), memory->get());
    ASSERT_TRUE(timer.ok()) << timer.status();
    const auto found = kernels::FindCandidates(P(text), cpu, kernels::TacticsFilter::kOurs, {});
    ASSERT_GT(found->tactics.size(), 1u);
    for (const kernels::Tactic* tactic : {&found->tactics.front(), &found->tactics.back()}) {
      const auto us = (*timer)->TimeUs(*tactic);
      ASSERT_TRUE(us.ok()) << us.status();
      EXPECT_GT(*us, 0);
    }
    EXPECT_FALSE((*timer)->TimeUs({found->tactics[0].spec, {}}).ok());
  }
}

TEST(LinearTimerTest, OtherProblemsAreRefused) {
  const auto memory = TimingMemory::Create(1, int64_t{1} << 16);
  const auto error = [&](const std::string& text) {
    const absl::Status status = CreateLinearTimer(P(text), memory->get()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(error("softmax/f32/rows=1,columns=1"), HasSubstr("not softmax/f32/rows=1,columns=1"));
  EXPECT_THAT(error("linear/i8/m=1,n=1,k=1"), HasSubstr("linear layers of f32 and bf16"));
  EXPECT_THAT(error("fused_linear/f32/m=1,n=3,k=1,gated"), HasSubstr("an even n, not 3"));
  EXPECT_TRUE(CreateLinearTimer(P("linear/bf16/m=1,n=1024,k=32"), memory->get()).ok());
  EXPECT_THAT(error("linear/f32/m=1,n=1025,k=16"), HasSubstr("takes more than the 65536 bytes"));
  EXPECT_THAT(error("linear/f32/m=2147483647,n=16,k=16"), HasSubstr("takes more than"));
  EXPECT_THAT(error("linear/f32/m=1,n=2147483647,k=2147483647"), HasSubstr("large"));
  EXPECT_FALSE(TimingMemory::Create(-1, 64).ok());
}

}  // namespace
}  // namespace flashflow::runtime
