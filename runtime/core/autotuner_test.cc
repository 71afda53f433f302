#include "runtime/core/autotuner.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/tactic.h"

namespace flashflow::runtime {
namespace {

using ::testing::HasSubstr;

// A device whose tactics take what the test says: by the tactic's first value and by how often it has run.
class FakeTimer : public Timer {
 public:
  std::function<absl::StatusOr<double>(int64_t id, int run)> time;
  std::vector<int> runs = std::vector<int>(16);
  std::vector<int64_t> order;
  double now_s = 100;

  absl::StatusOr<double> TimeUs(const kernels::Tactic& tactic) override {
    const int64_t id = tactic.config[0];
    order.push_back(id);
    now_s += 1;
    return time(id, runs[static_cast<size_t>(id)]++);
  }
};

class AutotunerTest : public testing::Test {
 protected:
  AutotunerTest() {
    options_.seconds = [this] { return timer_.now_s; };
  }

  // Candidates 0, 1, ... of which 0 is the default.
  absl::StatusOr<TuneResult> Tune(int64_t count) {
    std::vector<kernels::Tactic> candidates;
    for (int64_t i = 0; i < count; ++i) {
      candidates.push_back({kernels::FindTacticSpec("cpu.linear.panel16", 1), {i, 0, 0, 0, 0, 0, 0}});
    }
    return Autotune(candidates, options_, &timer_);
  }
  TuneResult Tuned(int64_t count) {
    const absl::StatusOr<TuneResult> result = Tune(count);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : TuneResult();
  }
  // Candidate i always takes times[i].
  void Take(std::vector<double> times) {
    timer_.time = [times](int64_t id, int) { return times[static_cast<size_t>(id)]; };
  }

  FakeTimer timer_;
  TuneOptions options_{.budget_s = 1e6};
};

TEST_F(AutotunerTest, FindsTheFastest) {
  Take({10, 12, 8, 9, 30});
  const TuneResult result = Tuned(5);
  EXPECT_EQ(result.best, 2u);
  EXPECT_EQ(result.best_us, 8);
  EXPECT_EQ(result.default_us, 10);
  EXPECT_DOUBLE_EQ(result.ratio, 0.8);
  EXPECT_EQ(result.stop, TuneStop::kSettled);
  EXPECT_EQ(result.rounds, options_.rounds + options_.confirming_rounds);
  EXPECT_EQ(timer_.runs[4], 1) << "what is far slower is run once";
  EXPECT_EQ(timer_.runs[1], 3) << "what is somewhat slower until that is known";
  EXPECT_EQ(timer_.runs[0], result.rounds) << "the default is always there to be compared with";
  EXPECT_EQ(timer_.runs[2], result.rounds);
}

TEST_F(AutotunerTest, RoundsAreInterleavedAndTurnAround) {
  Take({10, 10, 10});
  options_.rounds = 2;
  Tuned(3);
  EXPECT_THAT(absl::MakeConstSpan(timer_.order).first(6), testing::ElementsAre(0, 1, 2, 2, 1, 0));
}

TEST_F(AutotunerTest, ASmallGainDoesNotReplaceTheDefault) {
  Take({10, 9.75});
  TuneResult result = Tuned(2);
  EXPECT_EQ(result.best, 0u);
  EXPECT_EQ(result.best_us, 10);
  EXPECT_EQ(result.ratio, 1);
  options_.least_gain = 0.02;
  result = Tuned(2);
  EXPECT_EQ(result.best, 1u);
  EXPECT_DOUBLE_EQ(result.ratio, 0.975);
}

// The best of many equal candidates looks better than it is; meeting the default again shows it.
TEST_F(AutotunerTest, LuckIsNotAGain) {
  timer_.time = [this](int64_t id, int run) { return id == 3 && run < options_.rounds ? 5.0 : 10.0; };
  const TuneResult result = Tuned(5);
  EXPECT_EQ(timer_.runs[3], options_.rounds + options_.confirming_rounds);
  EXPECT_EQ(result.best, 0u);
  EXPECT_EQ(result.stop, TuneStop::kSettled);
}

// On a machine that is busy otherwise some rounds are won by much; too few of them are no gain.
TEST_F(AutotunerTest, SomeWonRoundsAreNotAGain) {
  int won = 0;
  timer_.time = [&](int64_t id, int run) {
    const int confirming = run - options_.rounds;
    if (confirming < 0) return id == 0 ? 10.0 : 9.0;
    return id == 0 ? 10.0 : (confirming < won ? 5.0 : 10.5);
  };
  for (won = 0; won <= options_.confirming_rounds; ++won) {
    timer_.runs.assign(16, 0);
    EXPECT_EQ(Tuned(2).best, won >= 8 ? 1u : 0u) << won << " of 9 rounds";
  }
}

// What slows the machine down for a while slows all down: ratios within a round stand.
TEST_F(AutotunerTest, RatiosAreOfTheSameRound) {
  timer_.time = [](int64_t id, int run) { return (id == 0 ? 10.0 : 9.0) * (1 + run % 5); };
  const TuneResult result = Tuned(2);
  EXPECT_EQ(result.best, 1u);
  EXPECT_DOUBLE_EQ(result.ratio, 0.9);
}

TEST_F(AutotunerTest, StopsNearTheFloor) {
  Take({10, 8, 9});
  options_.floor_us = 7.6;  // 95% of 8
  TuneResult result = Tuned(3);
  EXPECT_EQ(result.stop, TuneStop::kNearFloor);
  EXPECT_EQ(result.rounds, 3 + options_.confirming_rounds);
  EXPECT_EQ(result.best, 1u);
  // Three lucky samples near the floor are no gain either.
  timer_.runs.assign(16, 0);
  timer_.time = [](int64_t id, int run) { return id == 1 && run < 3 ? 8.0 : 10.0; };
  result = Tuned(3);
  EXPECT_EQ(result.stop, TuneStop::kNearFloor);
  EXPECT_EQ(result.best, 0u);
  Take({10, 8, 9});
  options_.floor_us = 7.59;
  EXPECT_EQ(Tuned(3).stop, TuneStop::kSettled);
  options_.floor_us = 9.7;  // the default is near it already
  result = Tuned(1);
  EXPECT_EQ(result.stop, TuneStop::kNearFloor);
  EXPECT_EQ(result.best, 0u);
}

TEST_F(AutotunerTest, TimeRunsOut) {
  Take({10, 5});
  options_.budget_s = 9;  // a run takes a second: the race is on
  TuneResult result = Tuned(2);
  EXPECT_EQ(result.stop, TuneStop::kBudget);
  EXPECT_EQ(result.best, 0u) << "nothing was confirmed";
  EXPECT_EQ(result.default_us, 10);
  EXPECT_EQ(result.times[1].median_us, 5);
  options_.budget_s = -1;
  EXPECT_EQ(Tune(2).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(AutotunerTest, WhatFailsIsLeftOut) {
  timer_.time = [](int64_t id, int) -> absl::StatusOr<double> {
    if (id == 1) return absl::InternalError("broken");
    if (id == 2) return 0.0;
    if (id == 3) return std::numeric_limits<double>::quiet_NaN();
    return id == 0 ? 10 : 8;
  };
  const TuneResult result = Tuned(5);
  EXPECT_EQ(result.best, 4u);
  EXPECT_EQ(timer_.runs[1], 1);
  EXPECT_EQ(result.times[1].status.message(), "broken");
  EXPECT_THAT(std::string(result.times[2].status.message()), HasSubstr("was timed at 0 us"));
  EXPECT_THAT(std::string(result.times[3].status.message()), HasSubstr("was timed at nan us"));
}

TEST_F(AutotunerTest, ADefaultThatFailsIsReplaced) {
  timer_.time = [](int64_t id, int) -> absl::StatusOr<double> {
    if (id == 0) return absl::InternalError("broken");
    return 8;
  };
  const TuneResult result = Tuned(2);
  EXPECT_EQ(result.best, 1u);
  EXPECT_EQ(result.default_us, 0);
  EXPECT_EQ(Tune(1).status().message(), "broken");
  EXPECT_EQ(Tune(0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(AutotunerTest, ReportsEachRound) {
  Take({10, 20, 8});
  std::vector<TuneProgress> seen;
  options_.progress = [&](const TuneProgress& progress) { seen.push_back(progress); };
  const TuneResult result = Tuned(3);
  ASSERT_EQ(seen.size(), static_cast<size_t>(result.rounds));
  EXPECT_EQ(seen[0].round, 1);
  EXPECT_EQ(seen[0].running, 3u);
  EXPECT_EQ(seen[0].best, 2u);
  EXPECT_EQ(seen[0].best_us, 8);
  EXPECT_EQ(seen[0].elapsed_s, 3);
  EXPECT_EQ(seen[1].running, 2u);
  EXPECT_EQ(Tuned(1).stop, TuneStop::kNothingToTune);
}

}  // namespace
}  // namespace flashflow::runtime
