#include "compiler/passes/decoder_runs.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace flashflow::passes {

using ::testing::AssertionFailure;
using ::testing::AssertionResult;
using ::testing::AssertionSuccess;

using interpreter::Tensor;

Weights RandomWeights(const ir::Graph& graph, std::mt19937& random) {
  std::normal_distribution<float> normal;
  Weights weights;
  for (const ir::Value* weight : graph.weights()) {
    interpreter::Shape shape;
    for (const DimExpr& dim : weight->tensor().shape) shape.push_back(dim.constant().value());
    const float scale = shape.size() == 2 ? 1 / std::sqrt(static_cast<float>(shape[1])) : 1.0f;
    std::vector<double> values(static_cast<size_t>(interpreter::NumElements(shape)));
    for (double& value : values) value = scale * normal(random);
    weights.emplace(weight->name(), Tensor::Floats(std::move(shape), std::move(values)));
  }
  return weights;
}

AssertionResult RowsAgree(const Logits& got, const Logits& want, double tolerance) {
  size_t compared = 0;
  for (size_t s = 0; s < got.size(); ++s) {
    for (size_t i = 0; i < got[s].size(); ++i) {
      if (got[s][i].empty()) continue;
      ++compared;
      double scale = 0, error = 0;
      for (size_t j = 0; j < got[s][i].size(); ++j) {
        scale = std::max(scale, std::abs(want[s][i][j]));
        const double difference = std::abs(got[s][i][j] - want[s][i][j]);
        error = std::isnan(difference) ? INFINITY : std::max(error, difference);
      }
      if (error > tolerance * scale) {
        return AssertionFailure() << "sequence " << s << ", position " << i << ": the logits differ by " << error
                                  << ", allowed are " << tolerance << " * " << scale;
      }
    }
  }
  if (compared == 0) return AssertionFailure() << "no rows to compare";
  return AssertionSuccess();
}

double WideTolerance(const ir::Graph& graph, int64_t longest_sum, double norm_eps) {
  return std::ldexp(1.0, -53) * static_cast<double>(graph.nodes().size()) * static_cast<double>(longest_sum) /
         std::sqrt(norm_eps);
}

}  // namespace flashflow::passes
