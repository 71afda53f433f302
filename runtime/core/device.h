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

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/plan/plan.h"
#include "kernels/registry/launcher.h"
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

// Used by one thread at a time.
class Device {
 public:
  virtual ~Device() = default;

  virtual std::string_view kind() const = 0;     // "cpu": the stored plan's section is ff.plan.cpu
  virtual std::string key() const = 0;           // as plan::Plan::device_key
  virtual std::string description() const = 0;   // for people
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
  virtual absl::Status CopyToDevice(void* device, const void* host, size_t bytes) = 0;
  virtual absl::Status CopyToHost(void* host, const void* device, size_t bytes) = 0;  // after all launches so far

  virtual const kernels::Launchers& launchers() const = 0;
  virtual void* launch_handle() = 0;  // LaunchContext::device

  // Around the launches of one step.
  virtual void BeginStep() {}
  virtual void EndStep() {}
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_DEVICE_H_
