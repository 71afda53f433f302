// The kernels for the ops of rectangular graphs, on the host: in f64, rounded to f32 and then to the element type. What
// tests of the kernels compare with, and what runs where a test gives the runtime a table of functions of the host.
#ifndef KERNELS_CUDA_TESTING_HOST_OPS_H_
#define KERNELS_CUDA_TESTING_HOST_OPS_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/api.h"
#include "kernels/cuda/binary.h"
#include "kernels/cuda/cast.h"
#include "kernels/cuda/copy.h"
#include "kernels/cuda/cumsum.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/index.h"
#include "kernels/cuda/masked_attention.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/select.h"
#include "kernels/cuda/softmax_columns.h"
#include "kernels/cuda/unary.h"

namespace flashflow::cuda::host {

// As the functions of these names in the headers above, with all pointers to the host's memory. They trust their
// arguments, run at once and give cudaSuccess.
cudaError_t Unary(const UnaryArgs& args, cudaStream_t);
cudaError_t Binary(const BinaryArgs& args, cudaStream_t);
cudaError_t Cast(const CastArgs& args, cudaStream_t);
cudaError_t Fill(const FillArgs& args, cudaStream_t);
cudaError_t Iota(const IotaArgs& args, cudaStream_t);
cudaError_t StridedCopy(const CopyArgs& args, cudaStream_t);
cudaError_t Select(const SelectArgs& args, cudaStream_t);
cudaError_t Index(const IndexArgs& args, cudaStream_t);
cudaError_t Cumsum(const CumsumArgs& args, cudaStream_t);
cudaError_t Reduce(const ReduceArgs& args, cudaStream_t);
cudaError_t SoftmaxColumns(const SoftmaxColumnsArgs& args, cudaStream_t);
cudaError_t MatMul(const MatMulArgs& args, cudaStream_t);
cudaError_t MaskedAttention(const MaskedAttentionArgs& args, cudaStream_t);
cudaError_t Rope(const RopeArgs& args, cudaStream_t);
cudaError_t NormPlain(const NormArgs& args, cudaStream_t);

// Puts them into a table.
void SetGraphOps(Api* api);

}  // namespace flashflow::cuda::host

#endif  // KERNELS_CUDA_TESTING_HOST_OPS_H_
