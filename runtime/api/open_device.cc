#include "runtime/api/open_device.h"

#include <utility>

#include "absl/log/log.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/cpu/cpu_device.h"
#include "runtime/cuda/open_cuda.h"

namespace flashflow::runtime {

absl::StatusOr<std::unique_ptr<Device>> OpenDevice(std::string_view name, int threads) {
  if (name == "cpu") return CreateCpuDevice(threads);
  if (name == "auto") {
    absl::StatusOr<std::unique_ptr<Device>> gpu = OpenCudaDevice(0);
    if (gpu.ok()) return gpu;
    VLOG(1) << "device auto: the CPU: " << gpu.status().message();
    return CreateCpuDevice(threads);
  }
  std::string_view number = name;
  int ordinal = 0;
  if (absl::ConsumePrefix(&number, "cuda") &&
      (number.empty() || (absl::ConsumePrefix(&number, ":") && absl::SimpleAtoi(number, &ordinal) && ordinal >= 0))) {
    absl::StatusOr<std::unique_ptr<Device>> gpu = OpenCudaDevice(ordinal);
    if (gpu.ok()) return gpu;
    return absl::Status(gpu.status().code(), absl::StrCat("device is \"", name, "\", but ", gpu.status().message(),
                                                          ": use the device \"cpu\" or \"auto\""));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("device is \"", name, "\"; it must be \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""));
}

}  // namespace flashflow::runtime
