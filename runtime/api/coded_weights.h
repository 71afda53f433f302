// Weights that an engine file holds as codes of 8 or 4 bits and scales (compiler/plan/plan.h).
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

// Of a weight's codes.
struct WeightCoding {
  bool transposed = false;  // the weight is stored transposed: a scale a column
  bool groups = false;      // 4 bits, with a scale and a least value a group
  friend bool operator==(const WeightCoding&, const WeightCoding&) = default;
};

// Which of a model's weights plans read as codes.
class CodedWeights {
 public:
  // Internal if the plan wants other codes of a weight than an earlier one: of its columns, or of other bits.
  absl::Status Add(const plan::Plan& plan);

  bool empty() const { return coded_.empty(); }

  // What the file is to hold for a weight of the model: the weight itself, unless it is read as codes alone, and codes
  // and scales if it is read as such.
  std::vector<engine::WeightSpec> Specs(const engine::WeightSpec& weight) const;

  // Gives what Specs names, from the source of the model's weights. InvalidArgument for a weight that is no matrix of
  // floats or has an element that is not finite.
  engine::WeightSource Source(const engine::WeightSource& source) const;

 private:
  absl::flat_hash_map<std::string, WeightCoding> coded_;
  absl::flat_hash_set<std::string> plain_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_API_CODED_WEIGHTS_H_
