#include "runtime/cpu/cpu_device.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/crc/crc32c.h"
#include "absl/log/check.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "compiler/ir/status_macros.h"
#include "kernels/cpu/bandwidth.h"
#include "kernels/cpu/huge_buffer.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_launchers.h"
#include "kernels/registry/cpu_weights.h"
#include "runtime/cpu/host_resources.h"

namespace flashflow::runtime {
namespace {

class CpuBuffer final : public Buffer {
 public:
  explicit CpuBuffer(cpu::HugeBuffer buffer) : buffer_(std::move(buffer)) {}
  void* data() const override { return buffer_.data(); }
  size_t size() const override { return buffer_.size(); }

 private:
  cpu::HugeBuffer buffer_;
};

// A part of a block that several weights share.
class WeightBuffer final : public Buffer {
 public:
  WeightBuffer(std::shared_ptr<Buffer> block, void* data, size_t size)
      : block_(std::move(block)), data_(data), size_(size) {}
  void* data() const override { return data_; }
  size_t size() const override { return size_; }

 private:
  std::shared_ptr<Buffer> block_;
  void* data_;
  size_t size_;
};

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int threads) : pool_(threads) {}
  absl::Status RegisterKernels() { return kernels::RegisterCpuKernels(&launchers_); }

  std::string_view kind() const override { return "cpu"; }
  std::string key() const override { return absl::StrCat("cpu/", kernels::kCatalogVersion); }
  std::string description() const override { return absl::StrCat("CPU, ", num_threads(), " threads"); }
  std::string spec_name() const override { return "cpu"; }
  int num_threads() const override { return pool_.num_threads(); }
  int64_t AvailableBytes() const override { return AvailableMemoryBytes(); }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes, std::string_view purpose) override {
    const auto available = static_cast<uint64_t>(std::max<int64_t>(AvailableBytes(), 0));
    absl::StatusOr<cpu::HugeBuffer> buffer =
        bytes > available ? absl::ResourceExhaustedError("") : cpu::HugeBuffer::Allocate(bytes);
    if (!buffer.ok()) {
      constexpr double kMiB = 1 << 20;
      return absl::ResourceExhaustedError(absl::StrFormat("%s needs %.1f MiB of memory; %.1f MiB are available",
                                                          purpose, static_cast<double>(bytes) / kMiB,
                                                          static_cast<double>(available) / kMiB));
    }
    return std::make_unique<CpuBuffer>(*std::move(buffer));
  }

  absl::StatusOr<LoadedWeight> LoadWeight(const engine::EngineFile& file,
                                          absl::Span<const engine::EngineWeight* const> parts,
                                          const plan::Weight& wanted) override {
    // What was checked and copied needs no memory of its own; tables that stay in the file are read in few places.
    const absl::Cleanup release = [&] {
      for (const engine::EngineWeight* part : parts) file.Release(*part);
    };
    size_t bytes = 0;
    for (const engine::EngineWeight* part : parts) {
      CHECK(part->dtype == wanted.dtype);
      FF_RETURN_IF_ERROR(file.CheckCrc(*part, Crc32c(part->bytes)));
      bytes += part->bytes.size();
    }
    std::string_view stored = parts[0]->bytes;
    std::unique_ptr<Buffer> joined;
    if (parts.size() > 1) {
      FF_ASSIGN_OR_RETURN(joined, Allocate(bytes, "a weight in several parts"));
      auto* to = static_cast<char*>(joined->data());
      stored = std::string_view(to, bytes);
      for (const engine::EngineWeight* part : parts) to = std::copy(part->bytes.begin(), part->bytes.end(), to);
    }
    LoadedWeight loaded;
    loaded.view.dtype = wanted.dtype;
    loaded.view.rank = static_cast<int>(wanted.shape.size());
    std::copy(wanted.shape.begin(), wanted.shape.end(), loaded.view.dims.begin());
    if (wanted.layout == kernels::kRowMajor && !wanted.transposed) {
      // The mapping is read-only, and so are weights to every kernel.
      loaded.view.data = const_cast<char*>(stored.data());
      loaded.bytes = static_cast<int64_t>(stored.size());
      loaded.buffer = std::move(joined);
      return loaded;
    }
    FF_ASSIGN_OR_RETURN(loaded.bytes, kernels::PackedBytes(wanted.layout, wanted.shape, wanted.dtype));
    FF_ASSIGN_OR_RETURN(loaded.buffer, AllocateWeight(static_cast<size_t>(loaded.bytes)));
    loaded.view.data = loaded.buffer->data();
    const auto row_major = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(stored.data()), stored.size());
    const auto packed =
        absl::MakeSpan(static_cast<std::byte*>(loaded.buffer->data()), static_cast<size_t>(loaded.bytes));
    FF_RETURN_IF_ERROR(kernels::PackCpuWeight(wanted.layout, wanted.shape, wanted.dtype, row_major, packed, &pool_,
                                              wanted.transposed));
    return loaded;
  }

  bool SharesHostMemory() const override { return true; }
  absl::Status CopyToDevice(void* device, const void* host, size_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
    return absl::OkStatus();
  }
  absl::Status CopyToHost(void* host, const void* device, size_t bytes) override {
    return CopyToDevice(host, device, bytes);
  }
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes, std::string_view purpose) override {
    return Allocate(bytes, purpose);
  }
  absl::Status Wait() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<Marker>> CreateMarker() override { return std::make_unique<DoneMarker>(); }

  const kernels::Launchers& launchers() const override { return launchers_; }
  void* launch_handle() override { return &pool_; }

 private:
  // Packed weights lie one after the other, in the order in which they are loaded, so that small ones too lie on huge
  // pages: on others a stream is slower by a fifth. What a block has more than its weights is never touched.
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateWeight(size_t bytes) {
    constexpr size_t kBlock = size_t{64} << 20;
    constexpr size_t kAlignment = 64;
    constexpr std::string_view kPurpose = "a packed weight";
    if (block_ == nullptr || bytes > block_->size() - block_used_) {
      if (bytes >= kBlock || AvailableBytes() < static_cast<int64_t>(2 * kBlock)) return Allocate(bytes, kPurpose);
      FF_ASSIGN_OR_RETURN(block_, Allocate(kBlock, kPurpose));
      block_used_ = 0;
    }
    auto weight = std::make_unique<WeightBuffer>(block_, static_cast<char*>(block_->data()) + block_used_, bytes);
    block_used_ = std::min((block_used_ + bytes + kAlignment - 1) / kAlignment * kAlignment, block_->size());
    return weight;
  }

  // By all threads: a file fresh from the disk's cache is read at the speed of memory.
  uint32_t Crc32c(std::string_view bytes) {
    constexpr size_t kChunk = size_t{4} << 20;
    std::vector<absl::crc32c_t> chunks((bytes.size() + kChunk - 1) / kChunk);
    pool_.Run(static_cast<int64_t>(chunks.size()), [&](int64_t i, int) {
      chunks[static_cast<size_t>(i)] = absl::ComputeCrc32c(bytes.substr(static_cast<size_t>(i) * kChunk, kChunk));
    });
    absl::crc32c_t crc{0};
    for (size_t i = 0; i < chunks.size(); ++i) {
      crc = absl::ConcatCrc32c(crc, chunks[i], std::min(kChunk, bytes.size() - i * kChunk));
    }
    return static_cast<uint32_t>(crc);
  }

  cpu::ThreadPool pool_;
  kernels::Launchers launchers_;
  std::shared_ptr<Buffer> block_;  // where weights are put as long as they fit
  size_t block_used_ = 0;
};

}  // namespace

absl::StatusOr<int> ThreadCount(int threads) {
  if (threads < 0 || threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", threads, "; give 1 to ", kMaxThreads, ", or 0 for one a core"));
  }
  return threads > 0 ? threads : DefaultThreads();
}

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(int threads) {
  FF_ASSIGN_OR_RETURN(const int count, ThreadCount(threads));
  auto device = std::make_unique<CpuDevice>(count);
  FF_RETURN_IF_ERROR(device->RegisterKernels());
  return device;
}

absl::StatusOr<double> MeasureCpuReadBandwidth(int threads) {
  FF_ASSIGN_OR_RETURN(const int count, ThreadCount(threads));
  cpu::ThreadPool pool(count);
  constexpr int64_t kBufferBytes = int64_t{1} << 30;
  constexpr int kRepeats = 5;
  const int64_t bytes = std::min(kBufferBytes, AvailableMemoryBytes() / 2);
  return cpu::MeasureReadBandwidth(static_cast<size_t>(bytes), kRepeats, &pool);
}

}  // namespace flashflow::runtime
