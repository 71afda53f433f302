#include "runtime/cuda/weight_upload.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/crc/crc32c.h"
#include "compiler/ir/status_macros.h"
#include "runtime/cuda/cuda_status.h"

namespace flashflow::runtime {
namespace {

constexpr size_t kBlockBytes = size_t{16} << 20;
constexpr size_t kTaskBytes = size_t{1} << 20;

}  // namespace

WeightUpload::~WeightUpload() {
  api_.stream_synchronize(stream_);
  for (const Block& block : blocks_) {
    if (block.fetched != nullptr) api_.event_destroy(block.fetched);
    if (block.data != nullptr) api_.free_host(block.data);
  }
}

absl::Status WeightUpload::Prepare() {
  for (Block& block : blocks_) {
    if (block.data == nullptr) {
      void* data = nullptr;
      FF_RETURN_IF_ERROR(CudaStatus(api_, api_.malloc_host(&data, kBlockBytes), "allocating page-locked memory"));
      block.data = static_cast<char*>(data);
    }
    if (block.fetched == nullptr) {
      FF_RETURN_IF_ERROR(CudaStatus(api_, api_.event_create(&block.fetched), "creating an event"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> WeightUpload::Copy(std::string_view bytes, void* device) {
  FF_RETURN_IF_ERROR(Prepare());
  absl::crc32c_t crc{0};
  auto* to = static_cast<char*>(device);
  for (size_t at = 0; at < bytes.size(); at += kBlockBytes) {
    Block& block = blocks_[next_++ % blocks_.size()];
    FF_RETURN_IF_ERROR(CudaStatus(api_, api_.event_synchronize(block.fetched), "waiting for a copy"));
    const std::string_view part = bytes.substr(at, kBlockBytes);
    std::vector<absl::crc32c_t> sums((part.size() + kTaskBytes - 1) / kTaskBytes);
    pool_.Run(static_cast<int64_t>(sums.size()), [&](int64_t i, int) {
      const size_t begin = static_cast<size_t>(i) * kTaskBytes;
      const std::string_view task = part.substr(begin, kTaskBytes);
      std::memcpy(block.data + begin, task.data(), task.size());
      sums[static_cast<size_t>(i)] = absl::ComputeCrc32c(std::string_view(block.data + begin, task.size()));
    });
    for (size_t i = 0; i < sums.size(); ++i) {
      crc = absl::ConcatCrc32c(crc, sums[i], std::min(kTaskBytes, part.size() - i * kTaskBytes));
    }
    FF_RETURN_IF_ERROR(CudaStatus(
        api_, api_.memcpy_async(to + at, block.data, part.size(), cudaMemcpyHostToDevice, stream_), "copying weights"));
    FF_RETURN_IF_ERROR(CudaStatus(api_, api_.event_record(block.fetched, stream_), "recording an event"));
  }
  return static_cast<uint32_t>(crc);
}

}  // namespace flashflow::runtime
