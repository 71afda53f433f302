// The device that an engine's options name.
#ifndef RUNTIME_API_OPEN_DEVICE_H_
#define RUNTIME_API_OPEN_DEVICE_H_

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/core/device.h"

namespace flashflow::runtime {

// "cpu", with so many threads; "cuda" or "cuda:N", GPU N; "auto": the first GPU if there is one that can be used, else
// the CPU. InvalidArgument for another name or number of threads; FailedPrecondition says what the named device lacks.
absl::StatusOr<std::unique_ptr<Device>> OpenDevice(std::string_view name, int threads);

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_OPEN_DEVICE_H_
