// What the executor needs of a device: memory, weights in the layouts its kernels want, and the kernels.
//
// A backend implements it in its own folder (runtime/cpu); nothing in runtime/core knows which devices exist.
#ifndef RUNTIME_CORE_DEVICE_H_
#define RUNTIME_CORE_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/plan/plan.h"
#include "kernels/registry/launcher.h"
#include "runtime/core/sampling_params.h"
#include "runtime/engine/engine_file.h"

namespace flashflow::runtime {

// Device memory that frees itself.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() const = 0;
  virtual size_t size() const = 0;
};

struct LoadedWeight {
  kernels::TensorView view;        // dims: the logical shape, whatever the layout
  int64_t bytes = 0;               // of the weight in its layout
  std::unique_ptr<Buffer> buffer;  // nullptr: the view lies in the engine file's mapping
};

// Launches kept together, to be run again as one.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual absl::Status Launch() = 0;
};

// A point in the order of a device's work.
class Marker {
 public:
  virtual ~Marker() = default;
  virtual absl::Status Set() = 0;    // here: after all work so far
  virtual absl::Status Await() = 0;  // returns once the device has come to where it was last set, or at once
};

// Of a device that is done with its work whenever a call returns.
class DoneMarker final : public Marker {
 public:
  absl::Status Set() override { return absl::OkStatus(); }
  absl::Status Await() override { return absl::OkStatus(); }
};

// Draws tokens where the logits lie. How a row is drawn is given in device memory, row_bytes() a row.
class DeviceSampler {
 public:
  virtual ~DeviceSampler() = default;
  // Whether it honors all of the parameters. (What it does not, the host draws.)
  virtual bool Supports(const SamplingParams& params) const = 0;
  virtual size_t row_bytes() const = 0;
  // Writes to the host's memory how a row is drawn the index'th time.
  virtual void WriteRow(const SamplingParams& params, uint64_t index, void* row) const = 0;
  virtual size_t workspace_bytes(int64_t rows, int64_t vocab_size) const = 0;
  // tokens[i] = a draw from logits[i], of vocab_size; -1 if a logit is not finite. All memory is the device's.
  virtual absl::Status Launch(const float* logits, int64_t rows, int64_t vocab_size, const void* how, void* workspace,
                              int32_t* tokens) = 0;
};

// Used by one thread at a time. What is launched or copied runs in order.
class Device {
 public:
  virtual ~Device() = default;

  virtual std::string_view kind() const = 0;     // "cpu": the stored plan's section is ff.plan.cpu
  virtual std::string key() const = 0;           // as plan::Plan::device_key
  virtual std::string description() const = 0;   // for people
  virtual std::string spec_name() const = 0;     // whose floors (compiler/analysis/data) are its own: "cpu", "h200"
  virtual int num_threads() const { return 0; }  // host threads that compute, 0 if that means nothing
  virtual int64_t AvailableBytes() const = 0;    // that could be allocated now

  // Zeroed memory, aligned for any kernel. ResourceExhausted names `purpose` and the size. Zero bytes are allowed.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes, std::string_view purpose) = 0;

  // Verifies the stored parts and brings them, one after the other, into the layout of `wanted`. Precondition: they
  // have its dtype, and its shape once they are joined along axis 0 (if it is transposed: once the axes of the one part
  // are exchanged). DataLoss for damage, InvalidArgument for a layout
  // that the device does not know.
  virtual absl::StatusOr<LoadedWeight> LoadWeight(const engine::EngineFile& file,
                                                  absl::Span<const engine::EngineWeight* const> parts,
                                                  const plan::Weight& wanted) = 0;

  // Whether host code may read and write device memory in place.
  virtual bool SharesHostMemory() const = 0;
  // Zeroed memory of the host, which copies reach without a detour. ResourceExhausted as Allocate.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> AllocateHost(size_t bytes, std::string_view purpose) = 0;
  // Both return before the copy is made; `host`, of AllocateHost, must not be touched before that.
  virtual absl::Status CopyToDevice(void* device, const void* host, size_t bytes) = 0;
  virtual absl::Status CopyToHost(void* host, const void* device, size_t bytes) = 0;
  // Until all that was launched and copied is done. Errors of launches that show up late are returned here.
  virtual absl::Status Wait() = 0;
  virtual absl::StatusOr<std::unique_ptr<Marker>> CreateMarker() = 0;

  virtual const kernels::Launchers& launchers() const = 0;
  virtual void* launch_handle() = 0;  // LaunchContext::device

  // Around the launches of one step.
  virtual void BeginStep() {}
  virtual void EndStep() {}

  // Whether it can record launches. What is launched again works on the same memory.
  virtual bool CanRecord() const { return false; }
  // What `launches` launches, which runs when the recording is launched. Its error, or Unimplemented if CanRecord is
  // false.
  virtual absl::StatusOr<std::unique_ptr<Recording>> Record(absl::FunctionRef<absl::Status()> launches);

  virtual DeviceSampler* sampler() { return nullptr; }  // null: the host draws
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_DEVICE_H_
