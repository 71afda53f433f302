// Launches a Triton kernel that was compiled ahead of time.
#ifndef KERNELS_TRITON_TRITON_KERNEL_H_
#define KERNELS_TRITON_TRITON_KERNEL_H_

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/triton/arguments.h"
#include "kernels/triton/kernel_metadata.h"

namespace flashflow::triton {

// A loaded cubin. May be launched from several threads.
class TritonKernel {
 public:
  // Loads the cubin that belongs to `metadata` onto the current device. InvalidArgument where the bytes are not the
  // ones that the metadata speaks of; FailedPrecondition where the device is of another architecture or has less shared
  // memory; Internal with the runtime's words where it cannot load.
  static absl::StatusOr<TritonKernel> Load(KernelMetadata metadata, absl::Span<const unsigned char> cubin);

  TritonKernel(TritonKernel&& other) noexcept;
  TritonKernel& operator=(TritonKernel&& other) noexcept;
  ~TritonKernel();

  // Launches `grid` programs (x, y, z). Neither allocates nor waits. InvalidArgument as CheckArguments; Internal where
  // the runtime refuses the launch.
  absl::Status Launch(dim3 grid, absl::Span<const Argument> arguments, cudaStream_t stream) const;

  const KernelMetadata& metadata() const { return metadata_; }

 private:
  TritonKernel(KernelMetadata metadata, cudaLibrary_t library, cudaKernel_t kernel);

  KernelMetadata metadata_;
  cudaLibrary_t library_ = nullptr;
  cudaKernel_t kernel_ = nullptr;
};

}  // namespace flashflow::triton

#endif  // KERNELS_TRITON_TRITON_KERNEL_H_
