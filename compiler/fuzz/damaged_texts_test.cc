// Ten thousand damaged texts, of those that the fuzzer would try first.
#include <random>
#include <string>
#include <vector>

#include "compiler/fuzz/damage.h"
#include "compiler/fuzz/targets.h"
#include "gtest/gtest.h"

namespace flashflow::fuzz {
namespace {

class DamagedTextsTest : public ::testing::TestWithParam<Target> {};

TEST_P(DamagedTextsTest, AreRefusedOrRight) {
  const Target& target = GetParam();
  const int cases = target.name == "passes" ? 2000 : 5000;
  const std::vector<std::string> corpus = target.corpus();
  for (const std::string& text : corpus) {
    const auto outcome = target.run(text);
    ASSERT_TRUE(outcome.ok()) << outcome.status() << "\n" << text;
    EXPECT_EQ(*outcome, Outcome::kAccepted) << text;
  }
  std::mt19937_64 random(11);
  int accepted = 0;
  for (int i = 0; i < cases; ++i) {
    const std::string text = Damage(corpus[static_cast<size_t>(i) % corpus.size()], random);
    const auto outcome = target.run(text);
    ASSERT_TRUE(outcome.ok()) << outcome.status() << "\n" << text;
    accepted += *outcome == Outcome::kAccepted;
  }
  EXPECT_GT(accepted, cases / 100) << "hardly any edit was harmless: what follows the first check saw nothing";
  EXPECT_LT(accepted, cases * 9 / 10) << "hardly any edit did harm";
}

INSTANTIATE_TEST_SUITE_P(Targets, DamagedTextsTest, ::testing::ValuesIn(Targets().begin(), Targets().end()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace flashflow::fuzz
