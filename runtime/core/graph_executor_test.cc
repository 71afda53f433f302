#include "runtime/core/graph_executor.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "compiler/plan/plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/core/fake_device.h"

namespace flashflow::runtime {
namespace {

using kernels::TensorView;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// y[B + 1, S] = x[B, S] * w[2] (its first element) with a row of the second below, by way of the arena.
plan::Plan ScalePlan() {
  const DimExpr B = DimExpr::Symbol("B"), S = DimExpr::Symbol("S");
  using plan::Storage;
  plan::Plan plan;
  plan.symbols = {{"B", {1, 100}}, {"S", {0, 10}}};
  plan.tensors = {{"x", DType::kI64, {B, S}, Storage::kInput, 0},
                  {"w", DType::kI64, {2}, Storage::kWeight, 0},
                  {"", DType::kI64, {B, S}, Storage::kArena, -1},
                  {"y", DType::kI64, {B + 1, S}, Storage::kOutput, 0}};
  plan.inputs = {0};
  plan.outputs = {3};
  plan.weights = {{{"w"}, DType::kI64, {2}, "row_major"}};
  plan.steps = {{.op = "scale", .tactics = {{"fake.scale", 1}}, .inputs = {0, 1}, .outputs = {2}, .loc = "m.py:3"},
                {.op = "pad", .tactics = {{"fake.pad", 1}}, .inputs = {2, 1}, .outputs = {3}}};
  return plan;
}

int64_t* Ints(const TensorView& view) { return static_cast<int64_t*>(view.data); }

class GraphExecutorTest : public ::testing::Test {
 protected:
  GraphExecutorTest() {
    Register("fake.scale", [this](const kernels::LaunchContext& c) {
      middle_ = c.outputs[0].data;
      for (int64_t i = 0; i < c.inputs[0].NumElements(); ++i) {
        Ints(c.outputs[0])[i] = Ints(c.inputs[0])[i] * Ints(c.inputs[1])[0];
      }
      return status_;
    });
    Register("fake.pad", [](const kernels::LaunchContext& c) {
      EXPECT_EQ(c.cache, nullptr);
      const int64_t count = c.inputs[0].NumElements();
      for (int64_t i = 0; i < c.outputs[0].NumElements(); ++i) {
        Ints(c.outputs[0])[i] = i < count ? Ints(c.inputs[0])[i] : Ints(c.inputs[1])[1];
      }
      return absl::OkStatus();
    });
    weight_.view = {factors_, DType::kI64, 1, {2}};
    weight_.bytes = sizeof(factors_);
  }
  void Register(std::string_view id, FakeKernel::Body body) {
    ASSERT_EQ(device_.registry.Register(id, 1, [body](auto&) { return std::make_unique<FakeKernel>(body); }),
              absl::OkStatus());
  }
  std::unique_ptr<GraphExecutor> Create() {
    auto executor = GraphExecutor::Create(ScalePlan(), planner_, &arena_, &device_);
    EXPECT_TRUE(executor.ok()) << executor.status();
    return *std::move(executor);
  }
  // Runs on x of the given dims, 0, 1, 2, ..., and leaves the result in y_.
  absl::Status Run(GraphExecutor& executor, std::vector<int64_t> symbols, std::array<int64_t, 2> x_dims,
                   std::array<int64_t, 2> y_dims) {
    std::vector<int64_t> x(100);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int64_t>(i);
    y_.assign(static_cast<size_t>(y_dims[0] * y_dims[1]), -1);
    const TensorView in = {x.data(), DType::kI64, 2, {x_dims[0], x_dims[1]}};
    const TensorView out = {y_.data(), DType::kI64, 2, {y_dims[0], y_dims[1]}};
    const LoadedWeight* const weight = &weight_;
    return executor.Run(symbols, {in}, {weight}, {out});
  }

  FakeDevice device_;
  SharedArena arena_{&device_};
  std::vector<SymbolValues> planned_;
  int64_t shrink_ = 0;  // how much too small the planner makes arenas
  ArenaPlanner planner_ = [this](const plan::Plan&, const SymbolValues& most) {
    planned_.push_back(most);
    const int64_t bytes = most.at("B") * most.at("S") * 8 - shrink_;
    return plan::ArenaLayout{most, bytes, {-1, -1, 0, -1}};
  };
  int64_t factors_[2] = {10, 7};
  LoadedWeight weight_;
  std::vector<int64_t> y_;
  void* middle_ = nullptr;
  absl::Status status_;
};

TEST_F(GraphExecutorTest, RunsAtAnySizeAndReadsTheWeightsOfEachRun) {
  const auto executor = Create();
  ASSERT_EQ(Run(*executor, {1, 2}, {1, 2}, {2, 2}), absl::OkStatus());
  EXPECT_THAT(y_, ElementsAre(0, 10, 7, 7));
  EXPECT_EQ(middle_, *arena_.AtLeast(1));
  factors_[0] = 5;
  ASSERT_EQ(Run(*executor, {2, 1}, {2, 1}, {3, 1}), absl::OkStatus());
  EXPECT_THAT(y_, ElementsAre(0, 5, 7));
  ASSERT_EQ(Run(*executor, {3, 0}, {3, 0}, {4, 0}), absl::OkStatus());
  EXPECT_THAT(*executor->OutputDims({2, 3}), ElementsAre(ElementsAre(3, 3)));
}

TEST_F(GraphExecutorTest, NearbySizesShareALayout) {
  const auto executor = Create();
  for (int64_t rows = 33; rows <= 40; ++rows) {
    ASSERT_EQ(Run(*executor, {rows, 1}, {rows, 1}, {rows + 1, 1}), absl::OkStatus());
  }
  ASSERT_EQ(planned_.size(), 1u);
  EXPECT_EQ(planned_[0].at("B"), 40);
  ASSERT_EQ(Run(*executor, {97, 1}, {97, 1}, {98, 1}), absl::OkStatus());
  EXPECT_EQ(planned_[1].at("B"), 100) << "no more than the symbol's range";
  EXPECT_EQ(executor->num_layouts(), 2);
}

TEST_F(GraphExecutorTest, WhatDoesNotFitIsRefused) {
  const auto executor = Create();
  const auto expect = [](const absl::Status& status, const std::string& message) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  expect(Run(*executor, {1}, {1, 1}, {2, 1}), "expected 2 sizes, got 1");
  expect(Run(*executor, {0, 1}, {0, 1}, {1, 1}), "size B is 0, expected 1 to 100");
  expect(Run(*executor, {1, 11}, {1, 11}, {2, 11}), "size S is 11, expected 0 to 10");
  expect(Run(*executor, {2, 2}, {2, 3}, {3, 2}), "input \"x\" is i64[2, 3], expected i64[2, 2]");
  expect(Run(*executor, {2, 2}, {2, 2}, {2, 2}), "output \"y\" is i64[2, 2], expected i64[3, 2]");
  weight_.view.dims[0] = 3;
  expect(Run(*executor, {2, 2}, {2, 2}, {3, 2}), "weight \"w\" is i64[3], expected i64[2]");
  weight_.view.dims[0] = 2;
  weight_.bytes = 8;
  expect(Run(*executor, {2, 2}, {2, 2}, {3, 2}), "has 8 bytes, expected 16 in the layout row_major");
  EXPECT_EQ(device_.steps_begun, 0);
}

TEST_F(GraphExecutorTest, AnArenaThatIsTooSmallIsNotUsed) {
  shrink_ = 1;
  const auto executor = Create();
  EXPECT_EQ(Run(*executor, {2, 2}, {2, 2}, {3, 2}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device_.steps_begun, 0);
}

TEST_F(GraphExecutorTest, AKernelsErrorNamesItsStep) {
  const auto executor = Create();
  status_ = absl::InternalError("it broke");
  EXPECT_EQ(Run(*executor, {1, 1}, {1, 1}, {2, 1}), absl::InternalError("step 0 (scale of m.py:3): it broke"));
}

TEST_F(GraphExecutorTest, AKernelThatMayNotWriteInPlaceIsNotBound) {
  plan::Plan plan = ScalePlan();
  plan.tensors.push_back(plan.tensors[2]);
  plan.tensors[4].in_place_of = 2;
  plan.steps.insert(plan.steps.begin() + 1,
                    {.op = "scale", .tactics = {{"fake.scale", 1}}, .inputs = {2, 1}, .outputs = {4}});
  plan.steps[2].inputs[0] = 4;
  ASSERT_EQ(plan::Validate(plan), absl::OkStatus());
  const absl::Status status = GraphExecutor::Create(plan, planner_, &arena_, &device_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("step 1 (scale) has result 0 in place of input 0, which kernel \"fake.scale\" does not allow"));
}

TEST_F(GraphExecutorTest, AStepGraphsPlanIsRefused) {
  plan::Plan plan = ScalePlan();
  plan.limits.max_tokens = 1;
  EXPECT_EQ(GraphExecutor::Create(plan, planner_, &arena_, &device_).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace flashflow::runtime
