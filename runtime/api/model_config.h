// What the runtime reads of an engine's ff.config section.
#ifndef RUNTIME_API_MODEL_CONFIG_H_
#define RUNTIME_API_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace flashflow::runtime {

struct ModelConfig {
  std::string name;          // "" if the section has none
  std::string architecture;  // "" if the section has none
  std::vector<int32_t> eos_token_ids;
};

// InvalidArgument for text that is no JSON object, or that has one of these keys with a value of another kind. Other
// keys are left to others.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json);

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_MODEL_CONFIG_H_
