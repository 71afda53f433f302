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

// Draws (a row's first logit / 10 + top_k + index) modulo the vocabulary.
class FakeSampler final : public DeviceSampler {
 public:
  bool Supports(const SamplingParams& params) const override { return params.logprobs == 0; }
  size_t row_bytes() const override { return 2 * sizeof(int32_t); }
  void WriteRow(const SamplingParams& params, uint64_t index, void* row) const override {
    const int32_t how[2] = {static_cast<int32_t>(index), params.top_k};
    std::memcpy(row, how, sizeof(how));
  }
  size_t workspace_bytes(int64_t rows, int64_t vocab_size) const override {
    return static_cast<size_t>(rows * vocab_size);
  }
  absl::Status Launch(const float* logits, int64_t rows, int64_t vocab_size, const void* how, void*,
                      int32_t* tokens) override {
    const auto draw = [=] {
      for (int64_t i = 0; i < rows; ++i) {
        const int32_t* row = static_cast<const int32_t*>(how) + 2 * i;
        tokens[i] =
            (static_cast<int32_t>(logits[i * vocab_size]) / 10 + row[0] + row[1]) % static_cast<int32_t>(vocab_size);
      }
    };
    if (record == nullptr) {
      draw();
    } else {
      record->push_back(draw);
    }
    return absl::OkStatus();
  }
  std::vector<std::function<void()>>* record = nullptr;
};

class FakeDevice final : public Device {
 public:
  int64_t available_bytes = int64_t{1} << 30;
  kernels::Launchers registry;
  int steps_begun = 0, steps_ended = 0;
  // Makes it a device that records launches and draws tokens. Kernels of the test that are to be recorded push what
  // they do to `recorded`, if it is not null.
  bool can_record = false;
  std::vector<std::function<void()>>* recorded = nullptr;

  std::string_view kind() const override { return "fake"; }
  std::string key() const override { return "fake/1"; }
  std::string description() const override { return "a fake"; }
  std::string spec_name() const override { return "fake"; }
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
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes, std::string_view purpose) override {
    return Allocate(bytes, purpose);
  }
  absl::Status Wait() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<Marker>> CreateMarker() override { return std::make_unique<DoneMarker>(); }
  const kernels::Launchers& launchers() const override { return registry; }
  void* launch_handle() override { return this; }
  bool CanRecord() const override { return can_record; }
  absl::StatusOr<std::unique_ptr<Recording>> Record(absl::FunctionRef<absl::Status()> launches) override {
    auto recording = std::make_unique<FakeRecording>();
    recorded = fake_sampler_.record = &recording->launches;
    const absl::Status status = launches();
    recorded = fake_sampler_.record = nullptr;
    if (!status.ok()) return status;
    return recording;
  }
  DeviceSampler* sampler() override { return can_record ? &fake_sampler_ : nullptr; }
  void BeginStep() override { ++steps_begun; }
  void EndStep() override { ++steps_ended; }

 private:
  struct FakeRecording final : Recording {
    absl::Status Launch() override {
      for (const auto& launch : launches) launch();
      return absl::OkStatus();
    }
    std::vector<std::function<void()>> launches;
  };
  FakeSampler fake_sampler_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_FAKE_DEVICE_H_
