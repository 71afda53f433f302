// Loads a plan's weights from an engine file onto a device.
#ifndef RUNTIME_CORE_WEIGHTS_H_
#define RUNTIME_CORE_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/plan/plan.h"
#include "runtime/core/device.h"
#include "runtime/engine/engine_file.h"

namespace flashflow::runtime {

// One for each of the plan's weights, in their order. They may lie in the file's mapping: `file` must outlive them.
// NotFound for a weight that the file lacks, InvalidArgument for one of another dtype or shape than the plan's (of its
// sources together), and
// the errors of Device::LoadWeight; each names the weight and the file.
absl::StatusOr<std::vector<LoadedWeight>> LoadWeights(const engine::EngineFile& file,
                                                      absl::Span<const plan::Weight> weights, Device* device);

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_WEIGHTS_H_
