// How a stored graph is compiled for a device.
#ifndef RUNTIME_API_PLAN_OPTIONS_H_
#define RUNTIME_API_PLAN_OPTIONS_H_

#include <string_view>

#include "compiler/ir/graph.h"
#include "compiler/passes/options.h"

namespace flashflow::runtime {

// Of the device's kind, "cpu" or "cuda". On a GPU layers hand each other what their weights are made of, and a step is
// larger.
passes::CompileOptions PlanOptions(std::string_view device_kind, const ir::Graph& stored);

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_PLAN_OPTIONS_H_
