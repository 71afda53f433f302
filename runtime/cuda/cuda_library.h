// libflashflow_cuda.so: found and loaded where there is an NVIDIA driver.
#ifndef RUNTIME_CUDA_CUDA_LIBRARY_H_
#define RUNTIME_CUDA_CUDA_LIBRARY_H_

#include "absl/status/statusor.h"
#include "kernels/cuda/api.h"

namespace flashflow::runtime {

// The library's table, which lives as long as the process; loaded at the first call. It is looked for where the
// environment variable FLASHFLOW_CUDA_LIBRARY says, else beside the binary or shared library that this code is part
// of, and where Bazel puts it. FailedPrecondition says what is missing: the driver (then nothing is loaded), or the
// library, and where it was looked for, or that it is of another version of FlashFlow.
absl::StatusOr<const cuda::Api*> LoadCudaLibrary();

}  // namespace flashflow::runtime

#endif  // RUNTIME_CUDA_CUDA_LIBRARY_H_
