// All that the runtime calls of CUDA, as one table of functions: what libflashflow_cuda.so exports.
//
// So the rest of FlashFlow links no CUDA: it loads that library where there is an NVIDIA driver, and tests give it a
// table that computes on the host.
#ifndef KERNELS_CUDA_API_H_
#define KERNELS_CUDA_API_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/binary.h"
#include "kernels/cuda/cast.h"
#include "kernels/cuda/copy.h"
#include "kernels/cuda/cumsum.h"
#include "kernels/cuda/device_info.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/index.h"
#include "kernels/cuda/int8_cache.h"
#include "kernels/cuda/masked_attention.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/rope_append.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/select.h"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/softmax_columns.h"
#include "kernels/cuda/unary.h"

namespace flashflow::cuda {

// Of the table's layout and of what its functions take: raised whenever either changes.
inline constexpr int kApiVersion = 3;

// The functions of the CUDA runtime are those of their names in <cuda_runtime_api.h>; the kernels' contracts are in
// their headers.
struct Api {
  // The device of the calling thread, and what it has.
  cudaError_t (*get_device_info)(int device, DeviceInfo* info) = nullptr;
  cudaError_t (*set_device)(int device) = nullptr;
  cudaError_t (*mem_get_info)(size_t* free_bytes, size_t* total_bytes) = nullptr;
  const char* (*get_error_string)(cudaError_t error) = nullptr;
  cudaError_t (*get_last_error)() = nullptr;  // and forgets it

  // Memory.
  cudaError_t (*malloc_device)(void** data, size_t bytes) = nullptr;
  cudaError_t (*free_device)(void* data) = nullptr;
  cudaError_t (*malloc_host)(void** data, size_t bytes) = nullptr;  // page-locked
  cudaError_t (*free_host)(void* data) = nullptr;
  cudaError_t (*memcpy_async)(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                              cudaStream_t stream) = nullptr;
  cudaError_t (*memset_async)(void* data, int value, size_t bytes, cudaStream_t stream) = nullptr;

  // Streams, events, graphs.
  cudaError_t (*stream_create)(cudaStream_t* stream) = nullptr;  // that does not wait for the legacy default stream
  cudaError_t (*stream_destroy)(cudaStream_t stream) = nullptr;
  cudaError_t (*stream_synchronize)(cudaStream_t stream) = nullptr;
  cudaError_t (*stream_wait_event)(cudaStream_t stream, cudaEvent_t event) = nullptr;
  cudaError_t (*event_create)(cudaEvent_t* event) = nullptr;  // that takes times
  cudaError_t (*event_destroy)(cudaEvent_t event) = nullptr;
  cudaError_t (*event_record)(cudaEvent_t event, cudaStream_t stream) = nullptr;
  cudaError_t (*event_synchronize)(cudaEvent_t event) = nullptr;
  cudaError_t (*event_elapsed_time)(float* milliseconds, cudaEvent_t start, cudaEvent_t end) = nullptr;
  cudaError_t (*stream_begin_capture)(cudaStream_t stream) = nullptr;  // of this thread's calls alone
  cudaError_t (*stream_end_capture)(cudaStream_t stream, cudaGraph_t* graph) = nullptr;
  cudaError_t (*graph_instantiate)(cudaGraphExec_t* runnable, cudaGraph_t graph) = nullptr;
  cudaError_t (*graph_destroy)(cudaGraph_t graph) = nullptr;
  cudaError_t (*graph_exec_destroy)(cudaGraphExec_t runnable) = nullptr;
  cudaError_t (*graph_launch)(cudaGraphExec_t runnable, cudaStream_t stream) = nullptr;

  // Kernels.
  cudaError_t (*gemm)(const GemmArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*gemm_portable)(const GemmArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*gemm_rows_sm90)(const GemmArgs& args, const GemmRowsSm90Config& config, cudaStream_t stream) = nullptr;
  cudaError_t (*norm)(const NormArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*embedding)(const EmbeddingArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*rope_append)(const RopeAppendArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*paged_attention)(const PagedAttentionArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*paged_prefill)(const PagedAttentionArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*paged_decode)(const PagedDecodeArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*int8_append)(const Int8AppendArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*int8_attention)(const Int8AttentionArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*fused_attention)(const AttentionArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*softmax)(const SoftmaxArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*quantize)(const QuantizeArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*sample)(const SampleArgs& args, cudaStream_t stream) = nullptr;

  // Kernels of rectangular graphs.
  cudaError_t (*unary)(const UnaryArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*binary)(const BinaryArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*cast)(const CastArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*fill)(const FillArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*iota)(const IotaArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*strided_copy)(const CopyArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*select)(const SelectArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*index)(const IndexArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*cumsum)(const CumsumArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*reduce)(const ReduceArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*softmax_columns)(const SoftmaxColumnsArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*matmul)(const MatMulArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*masked_attention)(const MaskedAttentionArgs& args, cudaStream_t stream) = nullptr;
  cudaError_t (*rope)(const RopeArgs& args, cudaStream_t stream) = nullptr;
};

// The table of this binary's kernels.
const Api& NativeApi();

// The one symbol of libflashflow_cuda.so: gives NativeApi(), or null where `version` is not kApiVersion.
extern "C" const Api* flashflow_cuda_api(int version);
inline constexpr char kApiSymbol[] = "flashflow_cuda_api";
using GetApi = const Api* (*)(int version);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_API_H_
