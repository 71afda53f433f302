// Weights from an engine file's mapping to the GPU.
#ifndef RUNTIME_CUDA_WEIGHT_UPLOAD_H_
#define RUNTIME_CUDA_WEIGHT_UPLOAD_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/api.h"

namespace flashflow::runtime {

// Copies through two page-locked blocks in turn: while the GPU fetches one, all threads fill the other and take the
// checksum of what they move. Used by one thread at a time.
class WeightUpload {
 public:
  // `api` and `stream` must outlive it.
  WeightUpload(const cuda::Api& api, cudaStream_t stream) : api_(api), stream_(stream) {}
  ~WeightUpload();
  WeightUpload(const WeightUpload&) = delete;
  WeightUpload& operator=(const WeightUpload&) = delete;

  // Starts the copy of `bytes` to `device` and returns their CRC-32C; they are no longer needed then.
  absl::StatusOr<uint32_t> Copy(std::string_view bytes, void* device);

  cpu::ThreadPool* pool() { return &pool_; }

 private:
  struct Block {
    char* data = nullptr;
    cudaEvent_t fetched = nullptr;
  };
  absl::Status Prepare();  // what is not there yet

  const cuda::Api& api_;
  cudaStream_t stream_;
  cpu::ThreadPool pool_;
  std::array<Block, 2> blocks_;
  size_t next_ = 0;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CUDA_WEIGHT_UPLOAD_H_
