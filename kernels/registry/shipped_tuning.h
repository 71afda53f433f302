// The tuning databases of kernels/registry/tuned, as texts (runtime/core/tuning_database.h has the format).
#ifndef KERNELS_REGISTRY_SHIPPED_TUNING_H_
#define KERNELS_REGISTRY_SHIPPED_TUNING_H_

#include <string_view>

#include "absl/types/span.h"

namespace flashflow::kernels {

struct ShippedTuningFile {
  std::string_view name;  // "h200"
  std::string_view json;
};
absl::Span<const ShippedTuningFile> ShippedTuningFiles();

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_SHIPPED_TUNING_H_
