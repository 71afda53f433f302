#include "runtime/cuda/open_cuda.h"

#include "compiler/ir/status_macros.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/cuda/cuda_library.h"

namespace flashflow::runtime {

absl::StatusOr<std::unique_ptr<Device>> OpenCudaDevice(int ordinal) {
  FF_ASSIGN_OR_RETURN(const cuda::Api* api, LoadCudaLibrary());
  return CreateCudaDevice(*api, ordinal);
}

absl::Status LoadCuda() { return LoadCudaLibrary().status(); }

}  // namespace flashflow::runtime
