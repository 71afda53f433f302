// Finds the fastest of a problem's tactics by running them.
#ifndef RUNTIME_CORE_AUTOTUNER_H_
#define RUNTIME_CORE_AUTOTUNER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/registry/tactic.h"

namespace flashflow::runtime {

// Runs tactics of one problem on one device. What a first run costs beside (compiling, waking threads) is not counted.
class Timer {
 public:
  virtual ~Timer() = default;
  // Microseconds that one run takes, with operands that no cache holds. An error is of this tactic alone.
  virtual absl::StatusOr<double> TimeUs(const kernels::Tactic& tactic) = 0;
};

enum class TuneStop : uint8_t {
  kNothingToTune,  // one candidate
  kNearFloor,      // the best is as near to the floor as was asked for
  kSettled,        // the others were slower, and the best was compared with the default
  kBudget,         // time was up
};
std::string_view TuneStopName(TuneStop stop);  // "one candidate", "near the floor", "settled", "out of time"

struct TuneProgress {
  int round = 0;       // rounds done
  size_t running = 0;  // candidates still in the race
  size_t best = 0;     // so far
  double best_us = 0;
  double elapsed_s = 0;
};

struct TuneOptions {
  double budget_s = 10;       // of one problem; the timing that it ends in is finished
  double floor_us = 0;        // that no tactic can pass (the roofline); 0: not known
  double near_floor = 0.95;   // share of the floor at which the search ends
  double least_gain = 0.03;   // by which another tactic must beat the default to replace it
  int rounds = 7;             // in which the candidates are compared; the slow ones leave after the first
  int confirming_rounds = 9;  // in which the best is then compared with the default
  std::function<void(const TuneProgress&)> progress = {};  // after each round
  std::function<double()> seconds = {};                    // a clock; empty: the steady one
};

struct CandidateTime {
  absl::Status status;  // of its last run; after an error it is not run again
  int samples = 0;
  double median_us = 0;  // 0: never run
};

struct TuneResult {
  size_t best = 0;     // into the candidates
  double best_us = 0;  // medians of the same rounds
  double default_us = 0;
  double ratio = 1;  // best over default: the median of the rounds' ratios
  TuneStop stop = TuneStop::kSettled;
  int rounds = 0;
  std::vector<CandidateTime> times;  // by candidate
};

// The first candidate is the default: what runs where nothing is tuned. Rounds time every candidate still in the race
// once, in turn forwards and backwards, so that what disturbs the machine disturbs all; a candidate leaves when its
// median is well above the best, and the race ends early when the best is near the floor. The winner meets the default
// once more, alone, in rounds of their own: only if it wins four of five of those, and by `least_gain`, does it replace
// it, since the best of many noisy figures is too good to be true.
//
// InvalidArgument for no candidates; if every candidate fails, the default's error.
absl::StatusOr<TuneResult> Autotune(absl::Span<const kernels::Tactic> candidates, const TuneOptions& options,
                                    Timer* timer);

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_AUTOTUNER_H_
