// Makes the catalog's CUDA kernels for step graphs launchable.
#ifndef KERNELS_REGISTRY_CUDA_LAUNCHERS_H_
#define KERNELS_REGISTRY_CUDA_LAUNCHERS_H_

#include "absl/status/status.h"
#include "kernels/cuda/api.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels {

// `api` must outlive what is bound. LaunchContext::device is the cudaStream_t; launches do not wait, so that an error
// of a kernel while it runs shows up later. What lies in device memory (row lengths, pages, indices) is not looked at:
// whoever fills it checks it. Unimplemented for sizes that no kernel takes on this GPU.
absl::Status RegisterCudaKernels(const cuda::Api& api, Launchers* launchers);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_CUDA_LAUNCHERS_H_
