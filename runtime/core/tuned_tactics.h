// The configs that run on this device, from the tuning databases that there are.
#ifndef RUNTIME_CORE_TUNED_TACTICS_H_
#define RUNTIME_CORE_TUNED_TACTICS_H_

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include "kernels/registry/tactic.h"
#include "runtime/core/tuning_database.h"

namespace flashflow::runtime {

class TunedTactics final : public kernels::TunedConfigs {
 public:
  // device: as DeviceLimits::name.
  explicit TunedTactics(std::string device) : device_(std::move(device)) {}

  // Takes the database's entries for this device; what an earlier call took stands. An entry that this build cannot use
  // (another kernel or version, another config) is left out with a warning in the log that names `origin` and the
  // entry.
  void Add(const TuningDatabase& database, std::string_view origin);

  const kernels::Config* Find(const kernels::TacticSpec& spec, const kernels::Problem& problem) const override;

  size_t size() const { return configs_.size(); }

 private:
  std::string device_;
  std::map<TuningKey, kernels::Config> configs_;
};

// What FlashFlow ships with, kernels/registry/tuned.
const TuningDatabase& ShippedTuning();

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_TUNED_TACTICS_H_
