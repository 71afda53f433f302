#include "kernels/cuda/api.h"

#include <cuda_runtime.h>

namespace flashflow::cuda {
namespace {

cudaError_t CreateStream(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking); }
cudaError_t CreateEvent(cudaEvent_t* event) { return cudaEventCreate(event); }
cudaError_t WaitEvent(cudaStream_t stream, cudaEvent_t event) { return cudaStreamWaitEvent(stream, event, 0); }
cudaError_t BeginCapture(cudaStream_t stream) {
  return cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
}
cudaError_t Instantiate(cudaGraphExec_t* runnable, cudaGraph_t graph) {
  return cudaGraphInstantiate(runnable, graph, 0);
}
cudaError_t MallocDevice(void** data, size_t bytes) { return cudaMalloc(data, bytes); }
cudaError_t MallocHost(void** data, size_t bytes) { return cudaHostAlloc(data, bytes, cudaHostAllocDefault); }

constexpr Api kApi = {
    .get_device_info = GetDeviceInfo,
    .set_device = cudaSetDevice,
    .mem_get_info = cudaMemGetInfo,
    .get_error_string = cudaGetErrorString,
    .get_last_error = cudaGetLastError,
    .malloc_device = MallocDevice,
    .free_device = cudaFree,
    .malloc_host = MallocHost,
    .free_host = cudaFreeHost,
    .memcpy_async = cudaMemcpyAsync,
    .memset_async = cudaMemsetAsync,
    .stream_create = CreateStream,
    .stream_destroy = cudaStreamDestroy,
    .stream_synchronize = cudaStreamSynchronize,
    .stream_wait_event = WaitEvent,
    .event_create = CreateEvent,
    .event_destroy = cudaEventDestroy,
    .event_record = cudaEventRecord,
    .event_synchronize = cudaEventSynchronize,
    .event_elapsed_time = cudaEventElapsedTime,
    .stream_begin_capture = BeginCapture,
    .stream_end_capture = cudaStreamEndCapture,
    .graph_instantiate = Instantiate,
    .graph_destroy = cudaGraphDestroy,
    .graph_exec_destroy = cudaGraphExecDestroy,
    .graph_launch = cudaGraphLaunch,
    .gemm = Gemm,
    .gemm_portable = GemmPortable,
    .gemm_rows_sm90 = GemmRowsSm90,
    .norm = Norm,
    .embedding = Embedding,
    .rope_append = RopeAppend,
    .paged_attention = PagedAttention,
    .paged_prefill = PagedPrefill,
    .paged_decode = PagedDecode,
    .int8_append = Int8Append,
    .int8_attention = Int8Attention,
    .fused_attention = FusedAttention,
    .softmax = Softmax,
    .quantize = Quantize,
    .sample = Sample,
    .unary = Unary,
    .binary = Binary,
    .cast = Cast,
    .fill = Fill,
    .iota = Iota,
    .strided_copy = StridedCopy,
    .select = Select,
    .index = Index,
    .cumsum = Cumsum,
    .reduce = Reduce,
    .softmax_columns = SoftmaxColumns,
    .matmul = MatMul,
    .masked_attention = MaskedAttention,
    .rope = Rope,
};

}  // namespace

const Api& NativeApi() { return kApi; }

extern "C" __attribute__((visibility("default"))) const Api* flashflow_cuda_api(int version) {
  return version == kApiVersion ? &kApi : nullptr;
}

}  // namespace flashflow::cuda
