// Tokens drawn on the GPU.
#ifndef RUNTIME_CUDA_CUDA_SAMPLER_H_
#define RUNTIME_CUDA_CUDA_SAMPLER_H_

#include "kernels/cuda/api.h"
#include "runtime/core/device.h"

namespace flashflow::runtime {

// By kernels/cuda/sampling.h, on `stream`. What needs the history of a sequence, or reports on its logits, is the
// host's: a repetition penalty and log-probabilities.
class CudaSampler final : public DeviceSampler {
 public:
  CudaSampler(const cuda::Api& api, cudaStream_t stream) : api_(api), stream_(stream) {}

  bool Supports(const SamplingParams& params) const override {
    return params.logprobs == 0 && params.repetition_penalty == 1.0f;
  }
  size_t row_bytes() const override { return sizeof(cuda::SamplingRow); }
  void WriteRow(const SamplingParams& params, uint64_t index, void* row) const override;
  size_t workspace_bytes(int64_t rows, int64_t vocab_size) const override {
    return static_cast<size_t>(rows * vocab_size) * sizeof(uint32_t);
  }
  absl::Status Launch(const float* logits, int64_t rows, int64_t vocab_size, const void* how, void* workspace,
                      int32_t* tokens) override;

 private:
  const cuda::Api& api_;
  cudaStream_t stream_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CUDA_CUDA_SAMPLER_H_
