#include "kernels/registry/launcher.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace flashflow::kernels {

int64_t TensorView::NumElements() const {
  int64_t elements = 1;
  for (int i = 0; i < rank; ++i) elements *= dims[i];
  return elements;
}

struct Launchers::Impl {
  absl::flat_hash_map<std::pair<std::string, int32_t>, BindFn> bindings;
};

absl::Status Launchers::Register(std::string_view kernel_id, int32_t version, BindFn bind) {
  if (impl_ == nullptr) impl_ = std::make_shared<Impl>();
  if (!impl_->bindings.try_emplace({std::string(kernel_id), version}, std::move(bind)).second) {
    return absl::AlreadyExistsError(absl::StrCat("kernel ", kernel_id, " version ", version, " is registered already"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<BoundKernel>> Launchers::Bind(std::string_view kernel_id, int32_t version,
                                                             const BindRequest& request) const {
  if (impl_ != nullptr) {
    auto it = impl_->bindings.find({std::string(kernel_id), version});
    if (it != impl_->bindings.end()) return it->second(request);
  }
  return absl::NotFoundError(absl::StrCat("no kernel ", kernel_id, " version ", version,
                                          " in this build; compile the model again with this version of FlashFlow"));
}

bool Launchers::Has(std::string_view kernel_id, int32_t version) const {
  return impl_ != nullptr && impl_->bindings.contains({std::string(kernel_id), version});
}

}  // namespace flashflow::kernels
