#include "runtime/core/tuned_tactics.h"

#include <utility>
#include <vector>

#include "absl/base/no_destructor.h"
#include "absl/log/check.h"
#include "absl/log/log.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/registry/shipped_tuning.h"

namespace flashflow::runtime {

void TunedTactics::Add(const TuningDatabase& database, std::string_view origin) {
  for (const auto& [key, record] : database.entries()) {
    if (key.device != device_) continue;
    const kernels::TacticSpec* spec = kernels::FindTacticSpec(key.kernel, key.kernel_version);
    std::vector<kernels::NamedValue> values;
    for (const auto& [name, value] : record.config) values.push_back({name, value});
    absl::StatusOr<kernels::Config> config =
        spec != nullptr ? kernels::MakeConfig(*spec, values)
                        : absl::NotFoundError(absl::StrCat("this build has no kernel ", key.kernel, " of version ",
                                                           key.kernel_version));
    if (config.ok()) {
      configs_.try_emplace(key, *std::move(config));
    } else {
      LOG(WARNING) << origin << ": the entry for " << key.kernel << " at " << key.dtype << " " << key.shape
                   << " is ignored: " << config.status().message();
    }
  }
}

const kernels::Config* TunedTactics::Find(const kernels::TacticSpec& spec, const kernels::Problem& problem) const {
  if (configs_.empty()) return nullptr;
  const auto it = configs_.find(KeyOf(spec, problem, device_));
  return it == configs_.end() ? nullptr : &it->second;
}

const TuningDatabase& ShippedTuning() {
  static const absl::NoDestructor<TuningDatabase> shipped([] {
    TuningDatabase all;
    for (const kernels::ShippedTuningFile& file : kernels::ShippedTuningFiles()) {
      std::vector<std::string> warnings;
      const absl::StatusOr<TuningDatabase> database = TuningDatabase::Parse(file.json, file.name, &warnings);
      CHECK(database.ok() && warnings.empty()) << file.name << ": " << database.status();
      for (const auto& [key, record] : database->entries()) all.Put(key, record);
    }
    return all;
  }());
  return *shipped;
}

}  // namespace flashflow::runtime
