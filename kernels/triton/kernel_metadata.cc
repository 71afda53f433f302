#include "kernels/triton/kernel_metadata.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "compiler/ir/status_macros.h"
#include "nlohmann/json.hpp"

namespace flashflow::triton {
namespace {

using json = nlohmann::json;

constexpr int kFormat = 1;
constexpr size_t kMaxTextBytes = size_t{1} << 20;
constexpr size_t kMaxParameters = 64;
constexpr int64_t kMaxSharedBytes = 227 * 1024;  // the most of any GPU so far
constexpr int64_t kMaxCubinBytes = int64_t{64} << 20;
constexpr std::string_view kKeys[] = {
    "format",     "compiler",          "kernel",    "entry",      "arch", "threads", "shared_bytes",
    "parameters", "hidden_parameters", "constants", "cubin_bytes"};

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("triton metadata: ", args...));
}

absl::StatusOr<std::string> Text(const json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) return Invalid(key, ": expected a string");
  std::string text = it->get<std::string>();
  if (text.empty() || text.size() > 256) return Invalid(key, ": expected 1 to 256 characters, got ", text.size());
  return text;
}

absl::StatusOr<int64_t> Integer(const json& object, const char* key, int64_t least, int64_t most) {
  const auto it = object.find(key);
  // An unsigned number past int64 would come out negative: it is refused by its kind.
  if (it == object.end() || !it->is_number_integer() ||
      (it->is_number_unsigned() && it->get<uint64_t>() > uint64_t{INT64_MAX})) {
    return Invalid(key, ": expected an integer");
  }
  const int64_t value = it->get<int64_t>();
  if (value < least || value > most) return Invalid(key, ": expected ", least, " to ", most, ", got ", value);
  return value;
}

absl::Status CheckKeys(const json& object, absl::Span<const std::string_view> known, std::string_view what) {
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return Invalid(what, "\"", key, "\" is no key of it, so the kernel may need what this reader does not know");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Parameter> ParseParameter(const json& object) {
  if (!object.is_object()) return Invalid("parameters: expected objects");
  Parameter parameter;
  FF_ASSIGN_OR_RETURN(parameter.name, Text(object, "name"));
  const std::string where = absl::StrCat("parameter ", parameter.name, ": ");
  static constexpr std::string_view kParameterKeys[] = {"name", "type", "multiple_of"};
  FF_RETURN_IF_ERROR(CheckKeys(object, kParameterKeys, where));
  FF_ASSIGN_OR_RETURN(const std::string type, Text(object, "type"));
  static constexpr std::pair<std::string_view, ParameterType> kScalars[] = {
      {"i32", ParameterType::kI32}, {"i64", ParameterType::kI64}, {"fp32", ParameterType::kF32}};
  const auto* scalar =
      std::find_if(std::begin(kScalars), std::end(kScalars), [&](auto& row) { return row.first == type; });
  if (scalar != std::end(kScalars)) {
    parameter.type = scalar->second;
  } else if (type.size() > 1 && type[0] == '*') {
    parameter.element = type.substr(1);
  } else {
    return Invalid(where, "type \"", type, "\" is none of *ELEMENT, i32, i64, fp32");
  }
  FF_ASSIGN_OR_RETURN(const int64_t multiple, Integer(object, "multiple_of", 1, 16));
  if (multiple != 1 && multiple != 16) return Invalid(where, "multiple_of: expected 1 or 16, got ", multiple);
  parameter.multiple_of = static_cast<int>(multiple);
  return parameter;
}

}  // namespace

absl::StatusOr<KernelMetadata> ParseKernelMetadata(std::string_view text) {
  if (text.size() > kMaxTextBytes) return Invalid("expected at most ", kMaxTextBytes, " bytes, got ", text.size());
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return Invalid("expected a JSON object");
  FF_ASSIGN_OR_RETURN(const int64_t format, Integer(object, "format", 0, INT32_MAX));
  if (format != kFormat) return Invalid("format: this reader knows ", kFormat, ", got ", format);
  FF_RETURN_IF_ERROR(CheckKeys(object, kKeys, ""));

  KernelMetadata metadata;
  FF_ASSIGN_OR_RETURN(metadata.compiler, Text(object, "compiler"));
  FF_ASSIGN_OR_RETURN(metadata.kernel, Text(object, "kernel"));
  FF_ASSIGN_OR_RETURN(metadata.entry, Text(object, "entry"));
  FF_ASSIGN_OR_RETURN(metadata.arch, Text(object, "arch"));
  std::string_view digits = metadata.arch;
  int capability = 0;
  if (absl::ConsumePrefix(&digits, "sm_")) metadata.exact = absl::ConsumeSuffix(&digits, "a");
  // sm_90 is 9.0 and sm_120 is 12.0.
  if (digits.size() < 2 || digits.size() > 3 || !std::all_of(digits.begin(), digits.end(), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(digits, &capability)) {
    return Invalid("arch: expected sm_90a or the like, got \"", metadata.arch, "\"");
  }
  metadata.major = capability / 10;
  metadata.minor = capability % 10;
  FF_ASSIGN_OR_RETURN(const int64_t threads, Integer(object, "threads", 32, 1024));
  if (threads % 32 != 0) return Invalid("threads: expected a multiple of 32, got ", threads);
  metadata.threads = static_cast<int>(threads);
  FF_ASSIGN_OR_RETURN(const int64_t shared, Integer(object, "shared_bytes", 0, kMaxSharedBytes));
  metadata.shared_bytes = static_cast<int>(shared);

  const auto parameters = object.find("parameters");
  if (parameters == object.end() || !parameters->is_array() || parameters->size() > kMaxParameters) {
    return Invalid("parameters: expected a list of at most ", kMaxParameters);
  }
  for (const json& element : *parameters) {
    FF_ASSIGN_OR_RETURN(Parameter parameter, ParseParameter(element));
    metadata.parameters.push_back(std::move(parameter));
  }
  const auto hidden = object.find("hidden_parameters");
  if (hidden == object.end() || *hidden != json::array({"global_scratch", "profile_scratch"})) {
    return Invalid("hidden_parameters: expected global_scratch and profile_scratch, the ones that can be null");
  }
  metadata.hidden_parameters = 2;
  if (const auto constants = object.find("constants"); constants == object.end() || !constants->is_object()) {
    return Invalid("constants: expected an object");
  }
  FF_ASSIGN_OR_RETURN(metadata.cubin_bytes, Integer(object, "cubin_bytes", 1, kMaxCubinBytes));
  return metadata;
}

bool RunsOn(const KernelMetadata& metadata, int major, int minor) {
  if (major != metadata.major) return false;
  return metadata.exact ? minor == metadata.minor : minor >= metadata.minor;
}

}  // namespace flashflow::triton
