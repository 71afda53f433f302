// The CPU's side of kernels/registry/tactic.h: what this CPU gives a kernel, and configs as kernels/cpu takes them.
#ifndef KERNELS_REGISTRY_CPU_TACTICS_H_
#define KERNELS_REGISTRY_CPU_TACTICS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cpu/linear.h"
#include "kernels/registry/device_limits.h"

namespace flashflow::kernels {

// Of the CPU that runs this, called `name` in tuning records.
DeviceLimits CpuLimits(std::string name);

// Values of the parameters of cpu.linear.panel16 and cpu.fused_linear.panel16. InvalidArgument for another number of
// values or one that the kernel does not take.
absl::StatusOr<cpu::LinearConfig> LinearConfigOf(absl::Span<const int64_t> values);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_CPU_TACTICS_H_
