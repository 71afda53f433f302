// The interpreter: what a graph means. The oracle that passes, kernels and the runtime are checked against.
#ifndef COMPILER_INTERPRETER_INTERPRETER_H_
#define COMPILER_INTERPRETER_INTERPRETER_H_

#include <functional>
#include <memory>
#include <string>
#include <variant>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "compiler/interpreter/eval.h"
#include "compiler/interpreter/tensor.h"
#include "compiler/ir/graph.h"

namespace flashflow::interpreter {

using Value = std::variant<Tensor, Cache>;
using Values = absl::flat_hash_map<std::string, Value>;  // by name

// Gives a weight by its name. Asked once for each, when the first node needs it; the interpreter lets go of it after
// the last, so that a large model's weights need not be in memory together.
using WeightSource = std::function<absl::StatusOr<std::shared_ptr<const Tensor>>(const std::string& name)>;
WeightSource WeightsFrom(absl::flat_hash_map<std::string, Tensor> weights);

// Sees each tensor that a node computed, before anything reads it, and may change its elements: for error analysis.
using ResultHook = std::function<void(const ir::Node& node, Tensor* result)>;

// Evaluates a graph that the verifier passes, and returns its outputs. `inputs` holds one value for each input of the
// graph and nothing else; a cache comes back, changed, as an output. Symbols take their values from the inputs' shapes.
//
// Integer and bool values come in the dtype the graph declares. Float inputs and weights may come in any float dtype:
// the typed mode rounds them to the declared one, the wide mode takes them as they are.
//
// Errors: InvalidArgument or OutOfRange for values that do not fit, ResourceExhausted for tensors of more than 2^31
// elements, whatever `weights` returns; each names the input, the weight, or the node with its location.
absl::StatusOr<Values> Interpret(const ir::Graph& graph, Values inputs, const WeightSource& weights, Mode mode,
                                 const ResultHook& hook = nullptr);

}  // namespace flashflow::interpreter

#endif  // COMPILER_INTERPRETER_INTERPRETER_H_
