#include "kernels/registry/tactic.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/base/no_destructor.h"
#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/tactic_specs.h"

namespace flashflow::kernels {
namespace {

std::vector<TacticSpec> MakeSpecs() {
  std::vector<TacticSpec> specs = CpuTacticSpecs();
  for (TacticSpec& spec : CudaTacticSpecs()) specs.push_back(std::move(spec));
  return specs;
}

// Why the kernel is out of the question wherever it would run.
std::optional<std::string> RefuseProvider(const TacticSpec& spec, TacticsFilter filter,
                                          absl::Span<const Provider> available) {
  if (spec.provider == Provider::kOurs) return std::nullopt;
  if (filter == TacticsFilter::kOurs) return absl::StrCat("it is ", ProviderName(spec.provider), "'s, not ours");
  if (std::ranges::find(available, spec.provider) != available.end()) return std::nullopt;
  return absl::StrCat(ProviderName(spec.provider), " is not available here");
}

// All configs of the space, the first parameter's values changing slowest.
std::vector<Config> Space(const TacticSpec& spec) {
  std::vector<Config> space = {{}};
  for (const Parameter& parameter : spec.parameters) {
    std::vector<Config> longer;
    for (const Config& config : space) {
      for (int64_t value : parameter.values) {
        longer.push_back(config);
        longer.back().push_back(value);
      }
    }
    space = std::move(longer);
  }
  return space;
}

// What the model of the kernel says, and where it has none how many values are not the default.
double Rank(const TacticSpec& spec, const Config& config, const Problem& problem, const DeviceLimits& device) {
  if (spec.cost != nullptr) return spec.cost(spec, config, problem, device);
  double changed = 0;
  for (size_t i = 0; i < config.size(); ++i) changed += config[i] != spec.parameters[i].default_value ? 1 : 0;
  return changed;
}

// The kernel's configs for the problem, least cost first; of equal cost the wider tile, as kernels choose themselves.
void AppendConfigs(const TacticSpec& spec, const Problem& problem, const DeviceLimits& device, Candidates* found) {
  std::vector<std::pair<double, Config>> ranked;
  for (Config& config : Space(spec)) {
    if (std::optional<std::string> reason = RefuseConfig(spec, config, problem, device)) {
      found->refused.push_back({TacticToText({&spec, config}), *std::move(reason)});
      continue;
    }
    ranked.emplace_back(Rank(spec, config, problem, device), std::move(config));
  }
  std::ranges::stable_sort(ranked, [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  });
  for (auto& [cost, config] : ranked) found->tactics.push_back({&spec, std::move(config)});
}

}  // namespace

std::string_view ProviderName(Provider provider) {
  switch (provider) {
    case Provider::kOurs:
      return "ours";
    case Provider::kTriton:
      return "triton";
    case Provider::kCublasLt:
      return "cublaslt";
  }
  return "?";
}

absl::Span<const TacticSpec> TacticSpecs() {
  static const absl::NoDestructor<std::vector<TacticSpec>> specs(MakeSpecs());
  return *specs;
}

const TacticSpec* FindTacticSpec(std::string_view kernel, int32_t version) {
  for (const TacticSpec& spec : TacticSpecs()) {
    if (spec.kernel == kernel && spec.version == version) return &spec;
  }
  return nullptr;
}

Config DefaultConfig(const TacticSpec& spec) {
  Config config;
  for (const Parameter& parameter : spec.parameters) config.push_back(parameter.default_value);
  return config;
}

int64_t ValueOf(const TacticSpec& spec, const Config& config, std::string_view name) {
  const auto parameter = std::ranges::find(spec.parameters, name, &Parameter::name);
  CHECK(parameter != spec.parameters.end()) << spec.kernel << " has no parameter " << name;
  return config[static_cast<size_t>(parameter - spec.parameters.begin())];
}

absl::StatusOr<Config> MakeConfig(const TacticSpec& spec, absl::Span<const NamedValue> values) {
  Config config = DefaultConfig(spec);
  for (const NamedValue& named : values) {
    const auto parameter = std::ranges::find(spec.parameters, named.name, &Parameter::name);
    if (parameter == spec.parameters.end()) {
      return absl::InvalidArgumentError(absl::StrCat(spec.kernel, " has no parameter \"", named.name, "\""));
    }
    if (std::ranges::find(parameter->values, named.value) == parameter->values.end()) {
      return absl::InvalidArgumentError(absl::StrCat(named.name, " of ", spec.kernel, " is ", named.value,
                                                     "; it can be ", absl::StrJoin(parameter->values, ", ")));
    }
    config[static_cast<size_t>(parameter - spec.parameters.begin())] = named.value;
  }
  return config;
}

std::string TacticToText(const Tactic& tactic) {
  std::vector<std::string> values;
  for (size_t i = 0; i < tactic.config.size(); ++i) {
    const Parameter& parameter = tactic.spec->parameters[i];
    if (tactic.spec->cost == nullptr && tactic.config[i] == parameter.default_value) continue;
    values.push_back(absl::StrCat(parameter.name, "=", tactic.config[i]));
  }
  if (values.empty()) return std::string(tactic.spec->kernel);
  return absl::StrCat(tactic.spec->kernel, "[", absl::StrJoin(values, ","), "]");
}

std::optional<std::string> RefuseKernel(const TacticSpec& spec, const Problem& problem, const DeviceLimits& device) {
  if (spec.device != device.kind) return absl::StrCat("it runs on ", spec.device, ", not on ", device.kind);
  if (std::ranges::find(spec.ops, problem.op) == spec.ops.end()) {
    return absl::StrCat("it computes ", absl::StrJoin(spec.ops, ", "), ", not ", problem.op);
  }
  if (!spec.dtypes.Contains(problem.dtype)) return absl::StrCat("it does not take ", DTypeName(problem.dtype));
  if (spec.min_capability > device.compute_capability) {
    return absl::StrCat("it needs compute capability ", spec.min_capability / 10, ".", spec.min_capability % 10,
                        spec.this_arch ? "" : " or higher", "; ", device.name, " has ", device.compute_capability / 10,
                        ".", device.compute_capability % 10);
  }
  if (spec.this_arch && spec.min_capability != device.compute_capability) {
    return absl::StrCat("it runs on compute capability ", spec.min_capability / 10, ".", spec.min_capability % 10,
                        " alone; ", device.name, " has ", device.compute_capability / 10, ".",
                        device.compute_capability % 10);
  }
  return spec.refuse_problem == nullptr ? std::nullopt : spec.refuse_problem(problem);
}

std::optional<std::string> RefuseConfig(const TacticSpec& spec, const Config& config, const Problem& problem,
                                        const DeviceLimits& device) {
  if (spec.footprint != nullptr) {
    const Footprint block = spec.footprint(spec, config, problem);
    if (block.threads > device.threads_per_block) {
      return absl::StrCat("a block of ", block.threads, " threads; ", device.arch, " allows ",
                          device.threads_per_block);
    }
    if (block.registers_per_thread > device.registers_per_thread) {
      return absl::StrCat(block.registers_per_thread, " registers a thread; ", device.arch, " allows ",
                          device.registers_per_thread);
    }
    const int64_t registers = int64_t{block.registers_per_thread} * block.threads;
    if (registers > device.registers_per_block) {
      return absl::StrCat(registers, " registers a block; ", device.arch, " has ", device.registers_per_block);
    }
    if (block.shared_bytes > device.shared_bytes_per_block) {
      return absl::StrCat(block.shared_bytes, " bytes of shared memory a block; ", device.arch, " has ",
                          device.shared_bytes_per_block);
    }
  }
  return spec.refuse_config == nullptr ? std::nullopt : spec.refuse_config(spec, config, problem, device);
}

absl::StatusOr<TacticsFilter> ParseTacticsFilter(std::string_view text) {
  if (text == "ours") return TacticsFilter::kOurs;
  if (text == "all") return TacticsFilter::kAll;
  return absl::InvalidArgumentError(absl::StrCat("tactics is \"", text, "\"; expected \"ours\" or \"all\""));
}

absl::StatusOr<Candidates> FindCandidates(const Problem& problem, const DeviceLimits& device, TacticsFilter filter,
                                          absl::Span<const Provider> available) {
  FF_RETURN_IF_ERROR(SizesOf(problem.op).status());
  Candidates found;
  for (const TacticSpec& spec : TacticSpecs()) {
    if (spec.device != device.kind || std::ranges::find(spec.ops, problem.op) == spec.ops.end()) continue;
    std::optional<std::string> reason = RefuseProvider(spec, filter, available);
    if (!reason) reason = RefuseKernel(spec, problem, device);
    if (reason) {
      found.refused.push_back({std::string(spec.kernel), *std::move(reason)});
    } else {
      AppendConfigs(spec, problem, device, &found);
    }
  }
  return found;
}

absl::StatusOr<ChosenTactic> ChooseTactic(const Problem& problem, const DeviceLimits& device, TacticsFilter filter,
                                          absl::Span<const Provider> available, const TunedConfigs* tuned) {
  FF_ASSIGN_OR_RETURN(const Candidates found, FindCandidates(problem, device, filter, available));
  if (found.tactics.empty()) {
    const auto line = [](std::string* out, const RefusedTactic& refused) {
      absl::StrAppend(out, refused.tactic, " refused: ", refused.reason);
    };
    return absl::FailedPreconditionError(absl::StrCat("no kernel for ", ProblemToText(problem), " on ", device.name,
                                                      " (", device.arch, ")", found.refused.empty() ? "" : ": ",
                                                      absl::StrJoin(found.refused, "; ", line)));
  }
  const Tactic& first = found.tactics.front();
  const Config* config = tuned == nullptr ? nullptr : tuned->Find(*first.spec, problem);
  if (config != nullptr && !RefuseConfig(*first.spec, *config, problem, device)) {
    return ChosenTactic{{first.spec, *config}, /*tuned=*/true};
  }
  return ChosenTactic{first};
}

}  // namespace flashflow::kernels
