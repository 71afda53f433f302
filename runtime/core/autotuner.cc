#include "runtime/core/autotuner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "runtime/core/median.h"

namespace flashflow::runtime {
namespace {

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// How far above the best a median may be after so many samples: one sample says little.
double Tolerance(int samples) { return samples < 3 ? 1.5 : samples < 5 ? 1.2 : 1.08; }

class Tuning {
 public:
  Tuning(absl::Span<const kernels::Tactic> candidates, const TuneOptions& options, Timer* timer)
      : candidates_(candidates),
        options_(options),
        timer_(timer),
        clock_(options.seconds ? options.seconds : SteadySeconds),
        start_(clock_()),
        times_(candidates.size()),
        samples_(candidates.size()),
        running_(candidates.size()) {
    std::iota(running_.begin(), running_.end(), size_t{0});
  }

  absl::StatusOr<TuneResult> Run() {
    TuneStop stop = Race();
    winner_ = Best();
    if (times_[winner_].samples == 0) {
      if (!times_[0].status.ok()) return times_[0].status;
      return absl::DeadlineExceededError("the budget is over before anything was run");
    }
    if (stop != TuneStop::kBudget && winner_ != 0 && times_[0].status.ok() && !Confirm()) stop = TuneStop::kBudget;
    return Result(stop);
  }

 private:
  bool OutOfTime() const { return clock_() - start_ > options_.budget_s; }
  bool NearFloor() const {
    const size_t best = Best();
    return options_.floor_us > 0 && times_[best].samples >= 3 &&
           times_[best].median_us * options_.near_floor <= options_.floor_us;
  }
  // The candidate of the least median; the default where none was run.
  size_t Best() const {
    size_t best = 0;
    for (size_t i = 0; i < times_.size(); ++i) {
      if (!times_[i].status.ok() || times_[i].samples == 0) continue;
      const bool usable = times_[best].status.ok() && times_[best].samples > 0;
      if (!usable || times_[i].median_us < times_[best].median_us) best = i;
    }
    return best;
  }

  void Time(size_t i) {
    absl::StatusOr<double> us = timer_->TimeUs(candidates_[i]);
    if (us.ok() && !(std::isfinite(*us) && *us > 0)) {
      us = absl::InternalError(absl::StrCat(kernels::TacticToText(candidates_[i]), " was timed at ", *us, " us"));
    }
    CandidateTime& time = times_[i];
    time.status = us.status();
    if (!us.ok()) return;
    samples_[i].push_back(*us);
    time.samples = static_cast<int>(samples_[i].size());
    time.median_us = Median(samples_[i]);
  }

  // Times all that are running; false where time was up before the last.
  bool Round() {
    std::vector<size_t> order = running_;
    if (rounds_ % 2 != 0) std::ranges::reverse(order);
    for (size_t i : order) {
      if (OutOfTime()) return false;
      Time(i);
    }
    ++rounds_;
    std::erase_if(running_, [this](size_t i) { return !times_[i].status.ok(); });
    if (options_.progress) {
      const size_t best = Best();
      options_.progress({.round = rounds_,
                         .running = running_.size(),
                         .best = best,
                         .best_us = times_[best].median_us,
                         .elapsed_s = clock_() - start_});
    }
    return true;
  }

  TuneStop Race() {
    while (rounds_ < options_.rounds) {
      if (!Round()) return TuneStop::kBudget;
      if (NearFloor()) return TuneStop::kNearFloor;
      if (running_.empty()) break;
      const double best_us = times_[Best()].median_us;
      std::erase_if(running_,
                    [&](size_t i) { return i != 0 && times_[i].median_us > best_us * Tolerance(times_[i].samples); });
      if (candidates_.size() == 1 && rounds_ >= 3) return TuneStop::kNothingToTune;
    }
    return TuneStop::kSettled;
  }

  // The best against the default; false where time was up.
  bool Confirm() {
    running_ = {0, winner_};
    for (size_t i : running_) samples_[i].clear();
    for (int i = 0; i < options_.confirming_rounds; ++i) {
      if (!Round()) return false;
      if (running_.size() < 2) break;
    }
    return true;
  }

  TuneResult Result(TuneStop stop) {
    TuneResult result;
    result.stop = stop;
    result.rounds = rounds_;
    result.best = winner_;
    if (winner_ != 0 && times_[0].status.ok()) {
      // Of the confirming rounds, in which each was timed once.
      const size_t rounds = std::min(samples_[0].size(), samples_[winner_].size());
      std::vector<double> ratios;
      for (size_t i = 0; i < rounds; ++i) ratios.push_back(samples_[winner_][i] / samples_[0][i]);
      const auto wins = static_cast<size_t>(std::ranges::count_if(ratios, [](double ratio) { return ratio < 1; }));
      result.ratio = ratios.empty() ? 1 : Median(std::move(ratios));
      const double most = 1 - options_.least_gain;
      if (stop == TuneStop::kBudget || rounds < 3 || wins * 5 < rounds * 4 || result.ratio > most ||
          times_[winner_].median_us > times_[0].median_us * most) {
        result.best = 0;
        result.ratio = 1;
      }
    }
    result.best_us = times_[result.best].median_us;
    result.default_us = times_[0].median_us;
    result.times = std::move(times_);
    return result;
  }

  const absl::Span<const kernels::Tactic> candidates_;
  const TuneOptions& options_;
  Timer* const timer_;
  const std::function<double()> clock_;
  const double start_;
  std::vector<CandidateTime> times_;
  std::vector<std::vector<double>> samples_;  // by candidate; of the confirming rounds alone once those begin
  std::vector<size_t> running_;               // ascending
  size_t winner_ = 0;
  int rounds_ = 0;
};

}  // namespace

std::string_view TuneStopName(TuneStop stop) {
  switch (stop) {
    case TuneStop::kNothingToTune:
      return "one candidate";
    case TuneStop::kNearFloor:
      return "near the floor";
    case TuneStop::kSettled:
      return "settled";
    case TuneStop::kBudget:
      return "out of time";
  }
  return "?";
}

absl::StatusOr<TuneResult> Autotune(absl::Span<const kernels::Tactic> candidates, const TuneOptions& options,
                                    Timer* timer) {
  if (candidates.empty()) return absl::InvalidArgumentError("there is nothing to tune: no kernel takes the problem");
  return Tuning(candidates, options, timer).Run();
}

}  // namespace flashflow::runtime
