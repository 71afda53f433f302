#include "kernels/registry/shipped_tuning.h"

namespace flashflow::kernels {

absl::Span<const ShippedTuningFile> ShippedTuningFiles() {
  static constexpr ShippedTuningFile kFiles[] = {
#include "kernels/registry/shipped_tuning.inc"
  };
  return kFiles;
}

}  // namespace flashflow::kernels
