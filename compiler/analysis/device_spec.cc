#include "compiler/analysis/device_spec.h"

#include <cmath>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "nlohmann/json.hpp"

namespace flashflow::analysis {
namespace {

using json = nlohmann::json;

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("device spec: ", args...));
}

absl::StatusOr<std::string> Text(const json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) return Invalid(key, ": expected a string");
  return it->get<std::string>();
}

absl::StatusOr<double> Positive(const json& object, const std::string& key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number()) return Invalid(key, ": expected a number");
  const double number = it->get<double>();
  if (!std::isfinite(number) || number <= 0) return Invalid(key, ": expected a number above 0, got ", number);
  return number;
}

}  // namespace

absl::StatusOr<DeviceSpec> ParseDeviceSpec(std::string_view text) {
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return Invalid("expected a JSON object");
  DeviceSpec spec;
  FF_ASSIGN_OR_RETURN(spec.name, Text(object, "name"));
  FF_ASSIGN_OR_RETURN(spec.arch, Text(object, "arch"));
  FF_ASSIGN_OR_RETURN(spec.source, Text(object, "source"));
  FF_ASSIGN_OR_RETURN(spec.read_gb_per_s, Positive(object, "read_gb_per_s"));
  FF_ASSIGN_OR_RETURN(spec.launch_us, Positive(object, "launch_us"));
  if (const auto count = object.find("sm_count"); count != object.end()) {
    if (!count->is_number_unsigned() || *count < 1 || *count > 1024) {
      return Invalid("sm_count: expected a whole number, 1 to 1024");
    }
    spec.sm_count = count->get<int>();
  }
  const auto rates = object.find("tflop_per_s");
  if (rates == object.end() || !rates->is_object()) return Invalid("tflop_per_s: expected an object of rates by dtype");
  for (const auto& [name, rate] : rates->items()) {
    const std::optional<DType> dtype = ParseDType(name);
    if (!dtype.has_value()) return Invalid("tflop_per_s: \"", name, "\" is no dtype");
    FF_ASSIGN_OR_RETURN(spec.tflop_per_s[*dtype], Positive(*rates, name));
  }
  if (!spec.tflop_per_s.contains(DType::kF32)) return Invalid("tflop_per_s: expected a rate for f32");
  for (const auto& [key, value] : object.items()) {
    bool known = false;
    for (const char* name : {"name", "arch", "source", "read_gb_per_s", "tflop_per_s", "launch_us", "sm_count"}) {
      known |= key == name;
    }
    if (!known) return Invalid("\"", key, "\" is no key of it");
  }
  return spec;
}

std::string DeviceSpecToJson(const DeviceSpec& device) {
  nlohmann::ordered_json rates = nlohmann::ordered_json::object();
  for (const auto& [dtype, rate] : device.tflop_per_s) rates[std::string(DTypeName(dtype))] = rate;
  nlohmann::ordered_json object = {{"name", device.name},     {"arch", device.arch},
                                   {"source", device.source}, {"read_gb_per_s", device.read_gb_per_s},
                                   {"tflop_per_s", rates},    {"launch_us", device.launch_us}};
  if (device.sm_count > 0) object["sm_count"] = device.sm_count;
  return object.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

absl::StatusOr<DeviceSpec> BuiltinDeviceSpec(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kSpecs[] = {
#include "compiler/analysis/device_specs.inc"
  };
  std::string known;
  for (const auto& [spec_name, spec] : kSpecs) {
    if (spec_name == name) return ParseDeviceSpec(spec);
    absl::StrAppend(&known, known.empty() ? "" : ", ", spec_name);
  }
  return absl::NotFoundError(absl::StrCat("no device is called \"", name, "\"; devices: ", known));
}

std::string_view BuiltinSpecOfGpu(std::string_view driver_name) {
  static constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"NVIDIA A100-SXM4-80GB", "a100"}, {"NVIDIA H100 80GB HBM3", "h100"}, {"NVIDIA H200", "h200"}};
  for (const auto& [name, spec] : kNames) {
    if (name == driver_name) return spec;
  }
  return "";
}

double FlopPerS(const DeviceSpec& device, DType dtype) {
  const auto it = device.tflop_per_s.find(dtype);
  return 1e12 * (it == device.tflop_per_s.end() ? device.tflop_per_s.at(DType::kF32) : it->second);
}

}  // namespace flashflow::analysis
