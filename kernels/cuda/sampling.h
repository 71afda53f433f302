// Choosing the next tokens from logits, on the GPU.
#ifndef KERNELS_CUDA_SAMPLING_H_
#define KERNELS_CUDA_SAMPLING_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace flashflow::cuda {

// How one row is drawn; as a request of the runtime says it (runtime/core/sampling_params.h).
struct SamplingRow {
  float temperature = 0;         // 0: the most probable token
  float top_p = 1;               // (0, 1]: of the least set of most probable tokens that sum up to this
  float min_p = 0;               // [0, 1]: of tokens at least this times as probable as the most probable one
  float repetition_penalty = 1;  // positive; of tokens in `seen`
  int32_t top_k = 0;             // of the k most probable tokens; 0: of all
  uint64_t seed = 0;
  uint64_t index = 0;  // counts the row's draws: the same seed and index draw the same number
};

// tokens[i] = a draw from softmax(logits[i] / temperature) under the row's filters; the lower of equally probable
// tokens is the more preferred one. The steps and the random numbers (Philox4x32-10) are those of the runtime's sampler
// on the CPU. That one sums in f64; here weights are integers of 32 bits relative to the largest one: sums are exact in
// any order, so that a row's token is a function of the row alone, and differs from the CPU's only where a draw falls
// within rounding of the border between two tokens.
struct SampleArgs {
  const float* logits = nullptr;     // [rows, vocab], rows ld elements apart
  const SamplingRow* how = nullptr;  // [rows], in device memory
  uint32_t* seen = nullptr;       // bits [rows, ceil(vocab / 32)] of the tokens in the row's sequence, or null where no
                                  // row has a penalty; the new token's bit is set
  int32_t* tokens = nullptr;      // [rows]; -1 for a row with a logit that is not finite
  uint32_t* workspace = nullptr;  // [rows, vocab]; may be null where no row has a temperature
  int rows = 0, vocab = 0;
  int64_t ld = 0;
};

// A block a row, or for few rows on Hopper a cluster. Compute capability 8.0 or higher. Any alignment. Launches on
// `stream`; allocates nothing and does not wait. cudaErrorInvalidValue for null operands (but `seen` and, if the rows
// allow, `workspace`), counts below 1 and ld < vocab.
cudaError_t Sample(const SampleArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_SAMPLING_H_
