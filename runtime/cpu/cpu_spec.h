// What this machine's CPU can do, measured once and kept.
#ifndef RUNTIME_CPU_CPU_SPEC_H_
#define RUNTIME_CPU_CPU_SPEC_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "compiler/analysis/device_spec.h"

namespace flashflow::runtime {

// With `threads` threads (0: one a core): the bandwidth at which they read memory, the rates at which our linear kernel
// multiplies weights of f32 and bf16 that the caches hold, and the time in which the thread pool hands out a step and
// has it back. Takes a few seconds on an idle machine. InvalidArgument as CreateCpuDevice.
absl::StatusOr<analysis::DeviceSpec> MeasureCpuSpec(int threads);

// What this machine's CPU is called, with as many threads (0: one a core): "AMD EPYC 9654 96-Core Processor, 8
// threads". Figures of the device, its spec and its tuning, are kept under this name.
std::string CpuName(int threads);

// The user's cache folder of FlashFlow, as the Python library knows it: $XDG_CACHE_HOME/flashflow, or
// ~/.cache/flashflow. Empty where there is no home. It need not exist.
std::string UserCacheFolder();

struct CpuSpecOptions {
  int threads = 0;             // 0: one a core
  std::string cache_folder{};  // empty: the user's
  bool measure_again = false;  // whatever is kept
};

// The spec kept in the cache folder for this CPU's model and number of threads. Where there is none, or a damaged one,
// it is measured and kept; a folder that cannot be written costs a log message only.
absl::StatusOr<analysis::DeviceSpec> CpuSpec(const CpuSpecOptions& options);

// The spec of a device by name: "cpu" is this machine's, others are compiler/analysis/data's, and what ends in .json is
// a file like those. NotFound lists the names.
absl::StatusOr<analysis::DeviceSpec> FindDeviceSpec(std::string_view name, const CpuSpecOptions& options);

}  // namespace flashflow::runtime

#endif  // RUNTIME_CPU_CPU_SPEC_H_
