#include "runtime/api/model_config.h"

#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"
#include "nlohmann/json.hpp"

namespace flashflow::runtime {
namespace {

using nlohmann::json;

absl::StatusOr<std::string> OptionalText(const json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return "";
  if (!it->is_string()) return absl::InvalidArgumentError(absl::StrCat("model config: \"", key, "\" is no text"));
  return it->get<std::string>();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view text) {
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("model config: it is no JSON object");
  ModelConfig config;
  FF_ASSIGN_OR_RETURN(config.name, OptionalText(object, "name"));
  FF_ASSIGN_OR_RETURN(config.architecture, OptionalText(object, "architecture"));
  const auto eos = object.find("eos_token_ids");
  if (eos == object.end() || eos->is_null()) return config;
  if (!eos->is_array()) return absl::InvalidArgumentError("model config: \"eos_token_ids\" is no list");
  for (const json& id : *eos) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > std::numeric_limits<int32_t>::max()) {
      return absl::InvalidArgumentError("model config: \"eos_token_ids\" holds something that is no token id");
    }
    config.eos_token_ids.push_back(id.get<int32_t>());
  }
  return config;
}

}  // namespace flashflow::runtime
