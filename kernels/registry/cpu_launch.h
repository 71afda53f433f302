// What the launchers of CPU kernels share, and the tables in which they are listed, a family a file.
#ifndef KERNELS_REGISTRY_CPU_LAUNCH_H_
#define KERNELS_REGISTRY_CPU_LAUNCH_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/registry/launch_checks.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels::cpu_launch {

// As CheckedLaunchFn, on these threads.
using LaunchFn = std::function<absl::Status(const LaunchContext&, cpu::ThreadPool*)>;

struct Binding {
  std::string_view id;
  int32_t version;
  absl::StatusOr<LaunchFn> (*bind)(const BindRequest&);
};

absl::Span<const Binding> ElementwiseBindings();
absl::Span<const Binding> MovingBindings();
absl::Span<const Binding> ContractionBindings();
absl::Span<const Binding> CacheBindings();

inline constexpr int64_t kF32Bytes = sizeof(float);

inline std::span<const int64_t> First(const Strides& strides, int rank) { return std::span(strides).first(rank); }

inline const float* F32(const TensorView& view) { return static_cast<const float*>(view.data); }
inline const float* F32OrNull(const TensorView* view) { return view != nullptr ? F32(*view) : nullptr; }
inline float* MutableF32(const TensorView& view) { return static_cast<float*>(view.data); }

}  // namespace flashflow::kernels::cpu_launch

#endif  // KERNELS_REGISTRY_CPU_LAUNCH_H_
