#include "kernels/registry/cpu_launchers.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/status_macros.h"
#include "kernels/registry/cpu_launch.h"
#include "kernels/registry/launch_checks.h"

namespace flashflow::kernels {
namespace {

absl::Status RegisterAll(absl::Span<const cpu_launch::Binding> bindings, Launchers* launchers) {
  for (const cpu_launch::Binding& binding : bindings) {
    const auto bind = [bind = binding.bind](const BindRequest& request) -> absl::StatusOr<CheckedLaunchFn> {
      FF_ASSIGN_OR_RETURN(cpu_launch::LaunchFn launch, bind(request));
      return [launch = std::move(launch)](const LaunchContext& context) -> absl::Status {
        if (context.device == nullptr) return absl::InvalidArgumentError("launched without a thread pool");
        return launch(context, static_cast<cpu::ThreadPool*>(context.device));
      };
    };
    FF_RETURN_IF_ERROR(RegisterChecked(binding.id, binding.version, bind, launchers));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RegisterCpuKernels(Launchers* launchers) {
  FF_RETURN_IF_ERROR(RegisterAll(cpu_launch::ElementwiseBindings(), launchers));
  FF_RETURN_IF_ERROR(RegisterAll(cpu_launch::MovingBindings(), launchers));
  FF_RETURN_IF_ERROR(RegisterAll(cpu_launch::ContractionBindings(), launchers));
  return RegisterAll(cpu_launch::CacheBindings(), launchers);
}

}  // namespace flashflow::kernels
