// The kernels of api.h as plain loops on the host: sums are f64, and results are rounded where the kernels' headers
// say.
//
// Refuse*: what a call says of its arguments alone, cudaSuccess if it would launch. Compute: what the launch then does,
// or cudaErrorIllegalAddress where it would reach out of the memory.
#ifndef KERNELS_CUDA_TESTING_HOST_KERNELS_H_
#define KERNELS_CUDA_TESTING_HOST_KERNELS_H_

#include <cuda_runtime_api.h>

#include <vector>

#include "kernels/cuda/embedding.h"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/int8_cache.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/rope_append.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/testing/host_memory.h"

namespace flashflow::cuda::testing {

cudaError_t RefuseGemm(const GemmArgs& args, int compute_capability);
cudaError_t RefuseGemmPortable(const GemmArgs& args);
cudaError_t RefuseGemmRowsSm90(const GemmArgs& args, int compute_capability);
cudaError_t Compute(const HostMemory& memory, const GemmArgs& args);

std::vector<float> NormalizedRow(const std::vector<float>& h, const RowNorm& norm);  // not rounded to a narrower type
cudaError_t Refuse(const NormArgs& args);
cudaError_t Compute(const HostMemory& memory, const NormArgs& args);

// As quantize.h says, of a row in f32.
void QuantizeRow(const std::vector<float>& x, float clip, int8_t* codes, float* scale);
cudaError_t Refuse(const QuantizeArgs& args);
cudaError_t Compute(const HostMemory& memory, const QuantizeArgs& args);

cudaError_t Refuse(const SoftmaxArgs& args);
cudaError_t Compute(const HostMemory& memory, const SoftmaxArgs& args);

cudaError_t Refuse(const EmbeddingArgs& args);
cudaError_t Compute(const HostMemory& memory, const EmbeddingArgs& args);

cudaError_t Refuse(const RopeAppendArgs& args);
cudaError_t Compute(const HostMemory& memory, const RopeAppendArgs& args);

// Probabilities are not rounded for their product with v.
cudaError_t Refuse(const PagedAttentionArgs& args);
cudaError_t RefusePagedPrefill(const PagedAttentionArgs& args);
cudaError_t Compute(const HostMemory& memory, const PagedAttentionArgs& args);
cudaError_t Refuse(const PagedDecodeArgs& args);
cudaError_t Compute(const HostMemory& memory, const PagedDecodeArgs& args);

cudaError_t Refuse(const Int8AppendArgs& args);
cudaError_t Compute(const HostMemory& memory, const Int8AppendArgs& args);
cudaError_t Refuse(const Int8AttentionArgs& args);
cudaError_t Compute(const HostMemory& memory, const Int8AttentionArgs& args);

cudaError_t Refuse(const AttentionArgs& args);
cudaError_t Compute(const HostMemory& memory, const AttentionArgs& args);

cudaError_t Refuse(const SampleArgs& args);
cudaError_t Compute(const HostMemory& memory, const SampleArgs& args);

inline bool Aligned(const void* pointer, int bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_HOST_KERNELS_H_
