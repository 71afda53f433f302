#include "runtime/cuda/cuda_device.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_weights.h"
#include "kernels/registry/cuda_graph_launchers.h"
#include "kernels/registry/cuda_launchers.h"
#include "runtime/cuda/cuda_sampler.h"
#include "runtime/cuda/cuda_status.h"
#include "runtime/cuda/weight_upload.h"

namespace flashflow::runtime {
namespace {

using FreeFn = cudaError_t (*)(void*);

// Of the GPU's memory, or the host's.
class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(void* data, size_t size, FreeFn free) : data_(data), size_(size), free_(free) {}
  ~CudaBuffer() override {
    if (data_ != nullptr) free_(data_);
  }
  void* data() const override { return data_; }
  size_t size() const override { return size_; }

 private:
  void* data_;
  size_t size_;
  FreeFn free_;
};

class GraphRecording final : public Recording {
 public:
  GraphRecording(const cuda::Api& api, cudaGraphExec_t graph, cudaStream_t stream)
      : api_(api), graph_(graph), stream_(stream) {}
  ~GraphRecording() override { api_.graph_exec_destroy(graph_); }
  absl::Status Launch() override { return CudaStatus(api_, api_.graph_launch(graph_, stream_), "launching a graph"); }

 private:
  const cuda::Api& api_;
  cudaGraphExec_t graph_;
  cudaStream_t stream_;
};

class EventMarker final : public Marker {
 public:
  EventMarker(const cuda::Api& api, cudaEvent_t event, cudaStream_t stream)
      : api_(api), event_(event), stream_(stream) {}
  ~EventMarker() override { api_.event_destroy(event_); }
  absl::Status Set() override { return CudaStatus(api_, api_.event_record(event_, stream_), "recording an event"); }
  absl::Status Await() override { return CudaStatus(api_, api_.event_synchronize(event_), "running a step"); }

 private:
  const cuda::Api& api_;
  cudaEvent_t event_;
  cudaStream_t stream_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(const cuda::Api& api, int ordinal, const cuda::DeviceInfo& info, cudaStream_t stream)
      : api_(api), ordinal_(ordinal), info_(info), stream_(stream), sampler_(api, stream) {}
  ~CudaDevice() override {
    upload_.reset();
    api_.stream_synchronize(stream_);
    api_.stream_destroy(stream_);
  }
  absl::Status RegisterKernels() {
    FF_RETURN_IF_ERROR(kernels::RegisterCudaKernels(api_, &launchers_));
    return kernels::RegisterCudaGraphKernels(api_, &launchers_);
  }

  std::string_view kind() const override { return "cuda"; }
  std::string key() const override { return absl::StrCat("cuda/", kernels::kCatalogVersion); }
  std::string description() const override {
    return absl::StrFormat("%s, %.0f GiB, CUDA %d.%d", info_.name, GiB(info_.memory_bytes),
                           info_.runtime_version / 1000, info_.runtime_version % 1000 / 10);
  }
  std::string spec_name() const override {
    if (const std::string_view name = analysis::BuiltinSpecOfGpu(info_.name); !name.empty()) return std::string(name);
    return absl::StrCat("cuda (", info_.name, ")");  // not known: whoever asks names a file
  }
  int64_t AvailableBytes() const override {
    size_t free = 0, total = 0;
    return api_.mem_get_info(&free, &total) == cudaSuccess ? static_cast<int64_t>(free) : 0;
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes, std::string_view purpose) override {
    FF_ASSIGN_OR_RETURN(auto buffer, AllocateRaw(bytes, purpose));
    if (bytes > 0) {
      FF_RETURN_IF_ERROR(Status(api_.memset_async(buffer->data(), 0, bytes, stream_), "zeroing memory"));
    }
    return buffer;
  }
  absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes, std::string_view purpose) override {
    void* data = nullptr;
    if (bytes > 0 && api_.malloc_host(&data, bytes) != cudaSuccess) {
      api_.get_last_error();
      return absl::ResourceExhaustedError(
          absl::StrFormat("%s needs %.1f MiB of page-locked host memory, which cannot be had", purpose, MiB(bytes)));
    }
    std::fill_n(static_cast<char*>(data), bytes, char{0});
    return std::make_unique<CudaBuffer>(data, bytes, api_.free_host);
  }

  absl::StatusOr<LoadedWeight> LoadWeight(const engine::EngineFile& file,
                                          absl::Span<const engine::EngineWeight* const> parts,
                                          const plan::Weight& wanted) override {
    const absl::Cleanup release = [&] {
      for (const engine::EngineWeight* part : parts) file.Release(*part);
    };
    LoadedWeight loaded;
    loaded.view.dtype = wanted.dtype;
    loaded.view.rank = static_cast<int>(wanted.shape.size());
    std::copy(wanted.shape.begin(), wanted.shape.end(), loaded.view.dims.begin());
    if (wanted.layout != kernels::kRowMajor) {
      return absl::InvalidArgumentError(absl::StrCat("no layout \"", wanted.layout, "\" on cuda"));
    }
    FF_ASSIGN_OR_RETURN(loaded.bytes, kernels::PackedBytes(wanted.layout, wanted.shape, wanted.dtype));
    FF_ASSIGN_OR_RETURN(loaded.buffer, AllocateRaw(static_cast<size_t>(loaded.bytes), "a weight"));
    loaded.view.data = loaded.buffer->data();
    if (upload_ == nullptr) upload_ = std::make_unique<WeightUpload>(api_, stream_);
    if (wanted.transposed) {
      FF_RETURN_IF_ERROR(file.Verify(*parts[0]));
      std::vector<std::byte> turned(static_cast<size_t>(loaded.bytes));
      FF_RETURN_IF_ERROR(kernels::PackCpuWeight(
          wanted.layout, wanted.shape, wanted.dtype,
          absl::MakeConstSpan(reinterpret_cast<const std::byte*>(parts[0]->bytes.data()), parts[0]->bytes.size()),
          absl::MakeSpan(turned), upload_->pool(), /*transposed=*/true));
      FF_RETURN_IF_ERROR(
          upload_->Copy({reinterpret_cast<const char*>(turned.data()), turned.size()}, loaded.view.data).status());
      return loaded;
    }
    auto* to = static_cast<char*>(loaded.view.data);
    for (const engine::EngineWeight* part : parts) {
      FF_ASSIGN_OR_RETURN(const uint32_t crc, upload_->Copy(part->bytes, to));
      FF_RETURN_IF_ERROR(file.CheckCrc(*part, crc));
      to += part->bytes.size();
    }
    return loaded;
  }

  bool SharesHostMemory() const override { return false; }
  absl::Status CopyToDevice(void* device, const void* host, size_t bytes) override {
    // A step begins with this copy, maybe on another thread than the step before: the GPU is this thread's from here
    // on.
    FF_RETURN_IF_ERROR(Status(api_.set_device(ordinal_), "taking the GPU"));
    if (bytes == 0) return absl::OkStatus();
    return Status(api_.memcpy_async(device, host, bytes, cudaMemcpyHostToDevice, stream_), "copying to the GPU");
  }
  absl::Status CopyToHost(void* host, const void* device, size_t bytes) override {
    if (bytes == 0) return absl::OkStatus();
    return Status(api_.memcpy_async(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "copying from the GPU");
  }
  absl::Status Wait() override { return Status(api_.stream_synchronize(stream_), "running a step"); }
  absl::StatusOr<std::unique_ptr<Marker>> CreateMarker() override {
    cudaEvent_t event = nullptr;
    FF_RETURN_IF_ERROR(Status(api_.event_create(&event), "creating an event"));
    return std::make_unique<EventMarker>(api_, event, stream_);
  }

  const kernels::Launchers& launchers() const override { return launchers_; }
  void* launch_handle() override { return stream_; }
  // The GPU is the calling thread's from here on: another thread may have run the step before.
  void BeginStep() override { api_.set_device(ordinal_); }

  bool CanRecord() const override { return true; }
  absl::StatusOr<std::unique_ptr<Recording>> Record(absl::FunctionRef<absl::Status()> launches) override {
    FF_RETURN_IF_ERROR(Status(api_.stream_begin_capture(stream_), "recording launches"));
    const absl::Status launched = launches();
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = api_.stream_end_capture(stream_, &graph);
    const absl::Cleanup destroy = [&] {
      if (graph != nullptr) api_.graph_destroy(graph);
    };
    if (!launched.ok()) {
      api_.get_last_error();
      return launched;
    }
    FF_RETURN_IF_ERROR(Status(ended, "recording launches"));
    cudaGraphExec_t runnable = nullptr;
    FF_RETURN_IF_ERROR(Status(api_.graph_instantiate(&runnable, graph), "making a graph of launches"));
    return std::make_unique<GraphRecording>(api_, runnable, stream_);
  }

  DeviceSampler* sampler() override { return &sampler_; }

 private:
  static double MiB(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }
  static double GiB(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }
  absl::Status Status(cudaError_t error, std::string_view doing) const { return CudaStatus(api_, error, doing); }

  absl::StatusOr<std::unique_ptr<CudaBuffer>> AllocateRaw(size_t bytes, std::string_view purpose) {
    api_.set_device(ordinal_);
    void* data = nullptr;
    if (bytes > 0 && api_.malloc_device(&data, bytes) != cudaSuccess) {
      api_.get_last_error();
      return absl::ResourceExhaustedError(absl::StrFormat(
          "%s needs %.1f MiB of the GPU's memory; %.1f MiB of its %.1f GiB are free: lower max_batch or "
          "kv_cache_bytes, or end other programs on it",
          purpose, MiB(bytes), MiB(static_cast<size_t>(AvailableBytes())), GiB(info_.memory_bytes)));
    }
    return std::make_unique<CudaBuffer>(data, bytes, api_.free_device);
  }

  const cuda::Api& api_;
  const int ordinal_;
  const cuda::DeviceInfo info_;
  const cudaStream_t stream_;
  CudaSampler sampler_;
  kernels::Launchers launchers_;
  std::unique_ptr<WeightUpload> upload_;  // made when the first weight is loaded
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const cuda::Api& api, int ordinal) {
  cuda::DeviceInfo info;
  if (const cudaError_t error = api.get_device_info(ordinal, &info); error != cudaSuccess) {
    api.get_last_error();
    return absl::FailedPreconditionError(
        absl::StrCat("GPU ", ordinal, " cannot be used: ", api.get_error_string(error)));
  }
  cudaStream_t stream = nullptr;
  FF_RETURN_IF_ERROR(CudaStatus(api, api.stream_create(&stream), "creating a stream"));
  auto device = std::make_unique<CudaDevice>(api, ordinal, info, stream);
  FF_RETURN_IF_ERROR(device->RegisterKernels());
  return device;
}

}  // namespace flashflow::runtime
