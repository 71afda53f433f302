// What a device can do, as data: so that costs are known of devices that the machine does not have.
#ifndef COMPILER_ANALYSIS_DEVICE_SPEC_H_
#define COMPILER_ANALYSIS_DEVICE_SPEC_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "compiler/ir/dtype.h"

namespace flashflow::analysis {

struct DeviceSpec {
  std::string name;
  std::string arch;                     // "sm_90a", "x86-64"
  std::string source;                   // where the figures come from
  double read_gb_per_s = 0;             // 10^9 bytes
  std::map<DType, double> tflop_per_s;  // of products of operands of this type; a multiply-add counts twice
  double launch_us = 0;                 // between two dependent steps at least
  int sm_count = 0;                     // a GPU's streaming multiprocessors; 0: no GPU
};

// From JSON as in compiler/analysis/data: the keys of DeviceSpec, each exactly once, sm_count of GPUs alone.
// InvalidArgument names the key that is missing, unknown or out of range (figures are positive and finite; f32 must be
// among the rates).
absl::StatusOr<DeviceSpec> ParseDeviceSpec(std::string_view json);

// What ParseDeviceSpec reads.
std::string DeviceSpecToJson(const DeviceSpec& device);

// One of compiler/analysis/data, by its file's name without the extension. NotFound lists them.
absl::StatusOr<DeviceSpec> BuiltinDeviceSpec(std::string_view name);

// The file of compiler/analysis/data for the GPU that NVIDIA's driver calls so; "" where there is none for just that
// model: an H100 for PCIe slots is slower than the one the data are of.
std::string_view BuiltinSpecOfGpu(std::string_view driver_name);

// The rate for products of this type; a type without one runs as f32.
double FlopPerS(const DeviceSpec& device, DType dtype);

}  // namespace flashflow::analysis

#endif  // COMPILER_ANALYSIS_DEVICE_SPEC_H_
