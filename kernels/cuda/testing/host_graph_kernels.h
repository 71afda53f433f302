// The kernels of rectangular graphs, as host_kernels.h has the others: loops of host_ops.h behind checks of the memory.
#ifndef KERNELS_CUDA_TESTING_HOST_GRAPH_KERNELS_H_
#define KERNELS_CUDA_TESTING_HOST_GRAPH_KERNELS_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/testing/host_memory.h"
#include "kernels/cuda/testing/host_ops.h"

namespace flashflow::cuda::testing {

cudaError_t Refuse(const UnaryArgs& args);
cudaError_t Refuse(const BinaryArgs& args);
cudaError_t Refuse(const MaskedAttentionArgs& args);
cudaError_t Refuse(const RopeArgs& args);
template <class Args>
cudaError_t Refuse(const Args&) {  // the others take whatever launchers give
  return cudaSuccess;
}

cudaError_t Compute(const HostMemory& memory, const UnaryArgs& args);
cudaError_t Compute(const HostMemory& memory, const BinaryArgs& args);
cudaError_t Compute(const HostMemory& memory, const CastArgs& args);
cudaError_t Compute(const HostMemory& memory, const FillArgs& args);
cudaError_t Compute(const HostMemory& memory, const IotaArgs& args);
cudaError_t Compute(const HostMemory& memory, const CopyArgs& args);
cudaError_t Compute(const HostMemory& memory, const SelectArgs& args);
cudaError_t Compute(const HostMemory& memory, const IndexArgs& args);
cudaError_t Compute(const HostMemory& memory, const CumsumArgs& args);
cudaError_t Compute(const HostMemory& memory, const ReduceArgs& args);
cudaError_t Compute(const HostMemory& memory, const SoftmaxColumnsArgs& args);
cudaError_t Compute(const HostMemory& memory, const MatMulArgs& args);
cudaError_t Compute(const HostMemory& memory, const MaskedAttentionArgs& args);
cudaError_t Compute(const HostMemory& memory, const RopeArgs& args);

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_HOST_GRAPH_KERNELS_H_
