#include "kernels/triton/arguments.h"

#include <string_view>

#include "absl/strings/str_cat.h"

namespace flashflow::triton {
namespace {

constexpr std::string_view kTypeNames[] = {"a pointer", "i32", "i64", "fp32"};  // by ParameterType, by Argument's index
static_assert(std::variant_size_v<Argument> == std::size(kTypeNames));
static_assert(static_cast<size_t>(ParameterType::kF32) + 1 == std::size(kTypeNames));

struct IsMultipleOf {
  int64_t divisor;
  bool operator()(const void* pointer) const { return reinterpret_cast<uintptr_t>(pointer) % divisor == 0; }
  bool operator()(int32_t number) const { return number % divisor == 0; }
  bool operator()(int64_t number) const { return number % divisor == 0; }
  bool operator()(float) const { return divisor == 1; }
};

}  // namespace

absl::Status CheckArguments(const KernelMetadata& metadata, absl::Span<const Argument> arguments) {
  if (arguments.size() != metadata.parameters.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(metadata.kernel, ": expected ", metadata.parameters.size(), " arguments, got ", arguments.size()));
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    const Parameter& parameter = metadata.parameters[i];
    const auto wanted = static_cast<size_t>(parameter.type);
    if (arguments[i].index() != wanted) {
      return absl::InvalidArgumentError(absl::StrCat(metadata.kernel, ": ", parameter.name, ": expected ",
                                                     kTypeNames[wanted], ", got ", kTypeNames[arguments[i].index()]));
    }
    if (!std::visit(IsMultipleOf{parameter.multiple_of}, arguments[i])) {
      return absl::InvalidArgumentError(absl::StrCat(metadata.kernel, ": ", parameter.name, ": expected a multiple of ",
                                                     parameter.multiple_of, ", which the kernel was compiled for"));
    }
  }
  return absl::OkStatus();
}

}  // namespace flashflow::triton
