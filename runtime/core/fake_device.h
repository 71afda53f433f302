// A device for tests: host memory behind copies, row-major weights, and whatever kernels the test registers.
#ifndef RUNTIME_CORE_FAKE_DEVICE_H_
#define RUNTIME_CORE_FAKE_DEVICE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/registry/launcher.h"
#include "runtime/core/device.h"

namespace flashflow::runtime {

class FakeBuffer final : public Buffer {
 public:
  explicit FakeBuffer(size_t size) : bytes_(size) {}
  void* data() const override { return const_cast<std::byte*>(bytes_.data()); }
  size_t size() const override { return bytes_.size(); }

 private:
  std::vector<std::byte> bytes_;
};

// A kernel that runs what the test says.
class FakeKernel final : public kernels::BoundKernel {
 public:
  using Body = std::function<absl::Status(const kernels::LaunchContext&)>;
  explicit FakeKernel(Body body) : body_(std::move(body)) {}
  absl::Status Launch(const kernels::LaunchContext& context) const override { return body_(context); }

 private:
  Body body_;
};

class FakeDevice final : public Device {
 public:
  int64_t available_bytes = int64_t{1} << 30;
  kernels::Launchers registry;
  int steps_begun = 0, steps_ended = 0;

  std::string_view kind() const override { return "fake"; }
  std::string key() const override { return "fake/1"; }
  std::string description() const override { return "a fake"; }
  int64_t AvailableBytes() const override { return available_bytes; }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes, std::string_view purpose) override {
    if (static_cast<int64_t>(bytes) > available_bytes)
      return absl::ResourceExhaustedError(absl::StrCat("no room for ", purpose));
    return std::make_unique<FakeBuffer>(bytes);
  }
  absl::StatusOr<LoadedWeight> LoadWeight(const engine::EngineFile& file,
                                          absl::Span<const engine::EngineWeight* const> parts,
                                          const plan::Weight& wanted) override {
    std::string bytes;
    for (const engine::EngineWeight* part : parts) {
      if (absl::Status status = file.Verify(*part); !status.ok()) return status;
      bytes.append(part->bytes);
    }
    LoadedWeight loaded;
    loaded.bytes = static_cast<int64_t>(bytes.size());
    loaded.buffer = std::make_unique<FakeBuffer>(bytes.size());
    std::memcpy(loaded.buffer->data(), bytes.data(), bytes.size());
    loaded.view.data = loaded.buffer->data();
    loaded.view.dtype = wanted.dtype;
    loaded.view.rank = static_cast<int>(wanted.shape.size());
    std::copy(wanted.shape.begin(), wanted.shape.end(), loaded.view.dims.begin());
    return loaded;
  }
  bool SharesHostMemory() const override { return false; }
  absl::Status CopyToDevice(void* device, const void* host, size_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
    return absl::OkStatus();
  }
  absl::Status CopyToHost(void* host, const void* device, size_t bytes) override {
    if (bytes > 0) std::memcpy(host, device, bytes);
    return absl::OkStatus();
  }
  const kernels::Launchers& launchers() const override { return registry; }
  void* launch_handle() override { return this; }
  void BeginStep() override { ++steps_begun; }
  void EndStep() override { ++steps_ended; }
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_FAKE_DEVICE_H_
