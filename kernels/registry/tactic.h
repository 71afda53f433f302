// Tactics: a kernel and the values of its parameters. Which there are for a problem on a device, why others are
// refused, and which one is chosen. Data and arithmetic only: nothing here includes or runs a kernel.
#ifndef KERNELS_REGISTRY_TACTIC_H_
#define KERNELS_REGISTRY_TACTIC_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/device_limits.h"
#include "kernels/registry/problem.h"

namespace flashflow::kernels {

// Who made a kernel.
enum class Provider : uint8_t { kOurs, kTriton, kCublasLt };
std::string_view ProviderName(Provider provider);  // "ours", "triton", "cublaslt"

// Something of a kernel that can be chosen and that changes no result: a tile's size, the depth of a pipeline.
struct Parameter {
  std::string_view name;
  int64_t default_value = 0;         // among the values
  std::vector<int64_t> values = {};  // ascending
  std::string_view meaning;          // for people
};

// Values of a kernel's parameters, in the order in which its TacticSpec lists them.
using Config = std::vector<int64_t>;

// What a block of a GPU kernel takes.
struct Footprint {
  int threads = 0;
  int registers_per_thread = 0;  // on average, as they are allocated
  int64_t shared_bytes = 0;
};

// A kernel as the tuner sees it. The functions are null where there is nothing to say. Reasons are what is wrong, in
// words that go behind "refused: ".
struct TacticSpec {
  std::string_view kernel = {};  // "cuda.gemm_sm90"
  int32_t version = 1;
  Provider provider = Provider::kOurs;
  std::string_view device = {};  // DeviceLimits::kind
  std::vector<std::string_view> ops = {};
  DTypeSet dtypes = {};
  int min_capability = 0;  // of a GPU: 10 * major + minor
  bool this_arch = false;  // its code runs on min_capability alone, as sm_90a's does
  std::vector<Parameter> parameters = {};
  std::optional<std::string> (*refuse_problem)(const Problem& problem) = nullptr;
  std::optional<std::string> (*refuse_config)(const TacticSpec& spec, const Config& config, const Problem& problem,
                                              const DeviceLimits& device) = nullptr;
  Footprint (*footprint)(const TacticSpec& spec, const Config& config, const Problem& problem) = nullptr;
  // What a launch costs beside others of the same kernel: less is better. Null: the default values come first.
  double (*cost)(const TacticSpec& spec, const Config& config, const Problem& problem,
                 const DeviceLimits& device) = nullptr;
};

// All of them, by device, op and preference.
absl::Span<const TacticSpec> TacticSpecs();
const TacticSpec* FindTacticSpec(std::string_view kernel, int32_t version);  // nullptr if it has no parameters here

Config DefaultConfig(const TacticSpec& spec);
// The value of the parameter `name`, which the spec must have.
int64_t ValueOf(const TacticSpec& spec, const Config& config, std::string_view name);
// A config of named values, as tuning records hold it; what is not named has its default. InvalidArgument for a
// parameter that the kernel lacks or a value that is not among the parameter's.
struct NamedValue {
  std::string name;
  int64_t value = 0;
};
absl::StatusOr<Config> MakeConfig(const TacticSpec& spec, absl::Span<const NamedValue> values);

struct Tactic {
  const TacticSpec* spec = nullptr;
  Config config;
};
// "cuda.gemm_sm90[tile_n=160]"; values that are the default are left out: "cpu.linear.panel16".
std::string TacticToText(const Tactic& tactic);

// Why a device cannot run the kernel for this problem, whatever its parameters; nullopt: it can.
std::optional<std::string> RefuseKernel(const TacticSpec& spec, const Problem& problem, const DeviceLimits& device);
// The same of one config of a kernel that is not refused as a whole. Holds the resource model: a block's threads,
// registers and shared memory against the device's.
std::optional<std::string> RefuseConfig(const TacticSpec& spec, const Config& config, const Problem& problem,
                                        const DeviceLimits& device);

// Which providers' kernels may be taken.
enum class TacticsFilter : uint8_t { kOurs, kAll };
absl::StatusOr<TacticsFilter> ParseTacticsFilter(std::string_view text);  // "ours" or "all"

struct RefusedTactic {
  std::string tactic;  // a kernel, or one config of it
  std::string reason;
};
struct Candidates {
  std::vector<Tactic> tactics;  // what is worth running, most promising first
  std::vector<RefusedTactic> refused;
};
// Every kernel for the problem's op on the device's kind, and every config of its space. With kAll, kernels of other
// providers are candidates where `available` lists them. NotFound as SizesOf.
absl::StatusOr<Candidates> FindCandidates(const Problem& problem, const DeviceLimits& device, TacticsFilter filter,
                                          absl::Span<const Provider> available);

// Configs that were found by measuring. Lives in the runtime; here for those who look configs up.
class TunedConfigs {
 public:
  virtual ~TunedConfigs() = default;
  // nullptr where nothing is known. Each value is among its parameter's. Valid as long as this.
  virtual const Config* Find(const TacticSpec& spec, const Problem& problem) const = 0;
};

struct ChosenTactic {
  Tactic tactic;
  bool tuned = false;  // from `tuned`; otherwise the model's choice
};
// What runs: among the kernels that take the problem, the first in the order of TacticSpecs(), with the tuned config
// where there is one that RefuseConfig lets pass, and else the one of least cost. FailedPrecondition names each kernel
// that was refused and why; NotFound as SizesOf.
absl::StatusOr<ChosenTactic> ChooseTactic(const Problem& problem, const DeviceLimits& device, TacticsFilter filter,
                                          absl::Span<const Provider> available, const TunedConfigs* tuned);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_TACTIC_H_
