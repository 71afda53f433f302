// Makes the catalog's CUDA kernels for the ops of rectangular graphs launchable.
#ifndef KERNELS_REGISTRY_CUDA_GRAPH_LAUNCHERS_H_
#define KERNELS_REGISTRY_CUDA_GRAPH_LAUNCHERS_H_

#include "absl/status/status.h"
#include "kernels/cuda/api.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels {

// As RegisterCudaKernels, whose ops it completes to those that the CPU has. An index out of range, which lies in device
// memory, reads nothing: it gives NaN in floats, else zeros.
absl::Status RegisterCudaGraphKernels(const cuda::Api& api, Launchers* launchers);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_CUDA_GRAPH_LAUNCHERS_H_
