#include "runtime/cuda/cuda_sampler.h"

#include <cstring>

#include "runtime/cuda/cuda_status.h"

namespace flashflow::runtime {

void CudaSampler::WriteRow(const SamplingParams& params, uint64_t index, void* row) const {
  cuda::SamplingRow how;
  how.temperature = params.temperature;
  how.top_p = params.top_p;
  how.min_p = params.min_p;
  how.repetition_penalty = params.repetition_penalty;
  how.top_k = params.top_k;
  how.seed = params.seed;
  how.index = index;
  std::memcpy(row, &how, sizeof(how));
}

absl::Status CudaSampler::Launch(const float* logits, int64_t rows, int64_t vocab_size, const void* how,
                                 void* workspace, int32_t* tokens) {
  cuda::SampleArgs args;
  args.logits = logits;
  args.how = static_cast<const cuda::SamplingRow*>(how);
  args.tokens = tokens;
  args.workspace = static_cast<uint32_t*>(workspace);
  args.rows = static_cast<int>(rows);
  args.vocab = static_cast<int>(vocab_size);
  args.ld = vocab_size;
  return CudaStatus(api_, api_.sample(args, stream_), "drawing tokens");
}

}  // namespace flashflow::runtime
