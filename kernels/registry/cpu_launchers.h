// Binds the plan's "cpu." kernels to kernels/cpu.
#ifndef KERNELS_REGISTRY_CPU_LAUNCHERS_H_
#define KERNELS_REGISTRY_CPU_LAUNCHERS_H_

#include "absl/status/status.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels {

// Registers every "cpu." row of the catalog. A launch wants LaunchContext::device to be a cpu::ThreadPool*.
absl::Status RegisterCpuKernels(Launchers* launchers);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_CPU_LAUNCHERS_H_
