#include "kernels/registry/step_problem.h"

#include "gtest/gtest.h"

namespace flashflow::kernels {
namespace {

TensorView View(DType dtype, std::initializer_list<int64_t> dims) {
  TensorView view;
  view.dtype = dtype;
  for (int64_t dim : dims) view.dims[static_cast<size_t>(view.rank++)] = dim;
  return view;
}

TEST(StepProblemTest, OfLinearLayers) {
  const TensorView x = View(DType::kF32, {2, 3, 8}), weight = View(DType::kBF16, {10, 8});
  EXPECT_EQ(ProblemToText(*ProblemOfStep("linear", {}, {x, weight})), "linear/bf16/m=6,n=10,k=8");
  EXPECT_EQ(ProblemToText(*ProblemOfStep("fused_linear", {{"gated", true}}, {x, weight})),
            "fused_linear/bf16/m=6,n=10,k=8,gated");
  EXPECT_EQ(ProblemToText(*ProblemOfStep("fused_linear", {{"gated", false}}, {x, weight})),
            "fused_linear/bf16/m=6,n=10,k=8");
}

TEST(StepProblemTest, OthersHaveNone) {
  const TensorView x = View(DType::kF32, {3, 8}), weight = View(DType::kF32, {10, 8});
  EXPECT_EQ(ProblemOfStep("matmul", {}, {x, weight}), std::nullopt);
  EXPECT_EQ(ProblemOfStep("linear", {}, {x}), std::nullopt);
  EXPECT_EQ(ProblemOfStep("linear", {}, {TensorView(), weight}), std::nullopt);
  EXPECT_EQ(ProblemOfStep("linear", {}, {x, x, x}).has_value(), true);
  EXPECT_EQ(ProblemOfStep("linear", {}, {x, View(DType::kF32, {8})}), std::nullopt);
  EXPECT_EQ(ProblemOfStep("linear", {}, {View(DType::kF32, {0, 8}), weight}), std::nullopt) << "no rows";
  EXPECT_EQ(ProblemOfStep("linear", {}, {View(DType::kF32, {3, 0}), View(DType::kF32, {10, 0})}), std::nullopt);
}

}  // namespace
}  // namespace flashflow::kernels
