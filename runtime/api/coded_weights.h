// Weights that an engine file holds as int8 codes and scales (compiler/plan/plan.h).
#ifndef RUNTIME_API_CODED_WEIGHTS_H_
#define RUNTIME_API_CODED_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compiler/plan/plan.h"
#include "runtime/engine/engine_writer.h"

namespace flashflow::runtime {

// Which of a model's weights plans read as codes.
class CodedWeights {
 public:
  // Internal if the plan wants the codes of a weight's rows where an earlier one wants its columns'.
  absl::Status Add(const plan::Plan& plan);

  bool empty() const { return coded_.empty(); }

  // What the file is to hold for a weight of the model: the weight itself, unless it is read as codes alone, and codes
  // and scales if it is read as such.
  std::vector<engine::WeightSpec> Specs(const engine::WeightSpec& weight) const;

  // Gives what Specs names, from the source of the model's weights. InvalidArgument for a weight that is no matrix of
  // floats or has an element that is not finite.
  engine::WeightSource Source(const engine::WeightSource& source) const;

 private:
  absl::flat_hash_map<std::string, bool> coded_;  // by weight: whether it is stored transposed, codes a column
  absl::flat_hash_set<std::string> plain_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_CODED_WEIGHTS_H_
