#include "runtime/core/device.h"

#include "absl/strings/str_cat.h"

namespace flashflow::runtime {

absl::StatusOr<std::unique_ptr<Recording>> Device::Record(absl::FunctionRef<absl::Status()>) {
  return absl::UnimplementedError(absl::StrCat("device ", kind(), " records no launches"));
}

}  // namespace flashflow::runtime
