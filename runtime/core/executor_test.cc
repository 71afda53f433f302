#include "runtime/core/executor.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/core/fake_device.h"

namespace flashflow::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// logits[l] = table[token_ids[logit_rows[l]]]: a lookup into the arena, then a gather into the output.
plan::Plan LookupPlan() {
  const DimExpr T = DimExpr::Symbol("T"), L = DimExpr::Symbol("L");
  plan::Plan plan;
  plan.limits = {.context_length = 20, .max_tokens = 8, .max_rows = 4, .max_logit_rows = 3};
  plan.cache = {.layers = 2, .kv_heads = 1, .head_dim = 4, .page_size = 4, .dtype = DType::kF32};
  using plan::Storage;
  plan.tensors = {
      {"token_ids", DType::kI32, {T}, Storage::kInput, 0}, {"logit_rows", DType::kI32, {L}, Storage::kInput, 1},
      {"table", DType::kF32, {3, 3}, Storage::kWeight, 0}, {"", DType::kF32, {T, 3}, Storage::kArena, -1},
      {"", DType::kI8, {T * 16}, Storage::kArena, -1},     {"logits", DType::kF32, {L, 3}, Storage::kOutput, 0}};
  plan.inputs = {0, 1};
  plan.outputs = {5};
  plan.weights = {{{"table"}, DType::kF32, {3, 3}, "row_major"}};
  plan.steps = {{.op = "lookup",
                 .tactics = {{"fake.better", 1}, {"fake.lookup", 2}},
                 .inputs = {2, 0, -1},
                 .outputs = {3},
                 .attrs = {},
                 .uses_cache = false,
                 .workspace = -1,
                 .loc = ""},
                {.op = "gather",
                 .tactics = {{"fake.gather", 1}},
                 .inputs = {3, 1},
                 .outputs = {5},
                 .attrs = {},
                 .uses_cache = true,
                 .workspace = 4,
                 .loc = "head (model.py:7)"}};
  plan.buckets = {{.max_tokens = 2, .arena_bytes = 512, .offsets = {-1, -1, -1, 256, 0, -1}},
                  {.max_tokens = 8, .arena_bytes = 1024, .offsets = {-1, -1, -1, 512, 0, -1}}};
  return plan;
}

class ExecutorTest : public ::testing::Test {
 protected:
  ExecutorTest() {
    Register("fake.lookup", 2, [this](const kernels::LaunchContext& c) {
      lookup_ = c.outputs[0];
      absent_is_null_ = c.inputs[2].data == nullptr;
      no_cache_ = c.cache == nullptr;
      for (int64_t t = 0; t < c.inputs[1].dims[0]; ++t) {
        const int32_t id = static_cast<const int32_t*>(c.inputs[1].data)[t];
        std::copy_n(static_cast<const float*>(c.inputs[0].data) + id * 3, 3,
                    static_cast<float*>(c.outputs[0].data) + t * 3);
      }
      return absl::OkStatus();
    });
    Register("fake.gather", 1, [this](const kernels::LaunchContext& c) {
      if (c.cache != nullptr) cache_ = *c.cache;
      workspace_bytes_ = c.workspace_bytes;
      workspace_ = c.workspace;
      for (int64_t l = 0; l < c.inputs[1].dims[0]; ++l) {
        const int32_t row = static_cast<const int32_t*>(c.inputs[1].data)[l];
        std::copy_n(static_cast<const float*>(c.inputs[0].data) + row * 3, 3,
                    static_cast<float*>(c.outputs[0].data) + l * 3);
      }
      return gather_status_;
    });
  }
  void Register(std::string_view id, int32_t version, FakeKernel::Body body) {
    ASSERT_EQ(device_.registry.Register(id, version,
                                        [this, body](const kernels::BindRequest& request) {
                                          bound_.push_back(
                                              {std::string(request.op),
                                               std::vector(request.input_dtypes.begin(), request.input_dtypes.end())});
                                          return std::make_unique<FakeKernel>(body);
                                        }),
              absl::OkStatus());
  }
  absl::StatusOr<std::unique_ptr<Executor>> Create(plan::Plan plan) {
    std::vector<LoadedWeight> weights(1);
    weights[0].view = {table_, DType::kF32, 2, {3, 3}};
    weights[0].bytes = sizeof(table_);
    return Executor::Create(std::move(plan), std::move(weights), /*cache_pages=*/6, &device_);
  }

  struct Binding {
    std::string op;
    std::vector<std::optional<DType>> inputs;
  };
  FakeDevice device_;
  float table_[9] = {0, 1, 2, 10, 11, 12, 20, 21, 22};
  std::vector<Binding> bound_;
  kernels::TensorView lookup_;
  kernels::CacheView cache_;
  bool absent_is_null_ = false, no_cache_ = false;
  size_t workspace_bytes_ = 0;
  void* workspace_ = nullptr;
  absl::Status gather_status_;
};

// Owns what StepInputs shows.
struct Inputs {
  std::vector<int32_t> token_ids = {2, 0, 1}, positions = {0, 1, 4}, row_start = {0, 2, 3}, kv_len = {2, 5},
                       block_table = {0, 1, 2, 3}, logit_rows = {1, 2};
  int64_t pages_per_row = 2;
  StepInputs view() const { return {token_ids, positions, row_start, kv_len, block_table, logit_rows, pages_per_row}; }
};

TEST_F(ExecutorTest, RunsStepsOverTheBucketsArena) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok()) << executor.status();
  EXPECT_EQ((*executor)->vocab_size(), 3);
  EXPECT_EQ((*executor)->arena_bytes(), 1024);
  EXPECT_EQ((*executor)->cache_bytes(), 2 * 6 * 2 * 4 * 4 * 4);
  auto logits = (*executor)->Run(Inputs().view());
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_THAT(*logits, ElementsAre(0, 1, 2, 10, 11, 12));
  EXPECT_THAT(lookup_.dims, ElementsAre(3, 3, 0, 0, 0, 0));
  EXPECT_EQ(workspace_bytes_, 48);
  EXPECT_EQ(static_cast<char*>(lookup_.data) - static_cast<char*>(workspace_), 512);
  EXPECT_TRUE(absent_is_null_);
  EXPECT_TRUE(no_cache_);
  EXPECT_EQ(cache_.num_pages, 6);
  EXPECT_EQ(cache_.layers, 2);
  EXPECT_NE(cache_.data, nullptr);

  Inputs one;
  one = {{1}, {0}, {0, 1}, {1}, {5}, {0}, 1};
  logits = (*executor)->Run(one.view());
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_THAT(*logits, ElementsAre(10, 11, 12));
  EXPECT_EQ(static_cast<char*>(lookup_.data) - static_cast<char*>(workspace_), 256);
  EXPECT_EQ(device_.steps_begun, 2);
  EXPECT_EQ(device_.steps_ended, 2);
}

TEST_F(ExecutorTest, TimesEachStepWhenAsked) {
  const auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok()) << executor.status();
  std::vector<double> times = {-1, -1};
  ASSERT_TRUE((*executor)->Run(Inputs().view(), absl::MakeSpan(times)).ok());
  EXPECT_GE(times[0], 0);
  EXPECT_GE(times[1], 0);
  times.resize(3);
  EXPECT_EQ((*executor)->Run(Inputs().view(), absl::MakeSpan(times)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ExecutorTest, BindsTheFirstTacticThereIs) {
  ASSERT_TRUE(Create(LookupPlan()).ok());
  ASSERT_EQ(bound_.size(), 2);
  EXPECT_EQ(bound_[0].op, "lookup");
  EXPECT_THAT(bound_[0].inputs, ElementsAre(DType::kF32, DType::kI32, std::nullopt));
  plan::Plan plan = LookupPlan();
  plan.steps[1].tactics = {{"fake.gather", 7}};
  const absl::Status status = Create(plan).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("step 1 (gather) wants kernel \"fake.gather\""));
}

TEST_F(ExecutorTest, AKernelsErrorNamesItsStepAndTheNextRunIsUnharmed) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok());
  gather_status_ = absl::InternalError("it broke");
  const absl::Status status = (*executor)->Run(Inputs().view()).status();
  EXPECT_EQ(status, absl::InternalError("step 1 (gather of head (model.py:7)): it broke"));
  EXPECT_EQ(device_.steps_ended, 1);
  gather_status_ = absl::OkStatus();
  EXPECT_TRUE((*executor)->Run(Inputs().view()).ok());
}

TEST_F(ExecutorTest, NoRowOfLogitsIsFine) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok());
  Inputs inputs;
  inputs.logit_rows = {};
  const auto logits = (*executor)->Run(inputs.view());
  ASSERT_TRUE(logits.ok()) << logits.status();
  EXPECT_TRUE(logits->empty());
}

TEST_F(ExecutorTest, InputsThatDoNotFitAreRefused) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok());
  const std::vector<std::pair<const char*, std::function<void(Inputs&)>>> mutations = {
      {"no tokens", [](Inputs& in) { in = {{}, {}, {0}, {}, {}, {}, 2}; }},
      {"too many tokens",
       [](Inputs& in) {
         in = {std::vector<int32_t>(9, 0), std::vector<int32_t>(9, 0), {0, 9}, {9}, {0, 1, 2}, {}, 3};
       }},
      {"too many logits", [](Inputs& in) { in.logit_rows = {0, 1, 2, 2}; }},
      {"positions short", [](Inputs& in) { in.positions.pop_back(); }},
      {"row_start short", [](Inputs& in) { in.row_start.pop_back(); }},
      {"block_table short", [](Inputs& in) { in.block_table.pop_back(); }},
      {"no pages",
       [](Inputs& in) {
         in.pages_per_row = 0;
         in.block_table.clear();
       }},
      {"too many pages",
       [](Inputs& in) {
         in.pages_per_row = 6;
         in.block_table.assign(12, 0);
       }},
      {"row_start does not begin at 0", [](Inputs& in) { in.row_start[0] = 1; }},
      {"row_start does not end at T", [](Inputs& in) { in.row_start[2] = 2; }},
      {"row_start falls", [](Inputs& in) { in.row_start[1] = 3; }},
      {"an empty row", [](Inputs& in) { in.row_start[1] = 0; }},
      {"kv_len below the new tokens", [](Inputs& in) { in.kv_len[0] = 1; }},
      {"kv_len past the pages", [](Inputs& in) { in.kv_len[1] = 9; }},
      {"kv_len past the context", [](Inputs& in) { in.kv_len[1] = 21; }},
      {"a page past the cache", [](Inputs& in) { in.block_table[3] = 6; }},
      {"a negative page", [](Inputs& in) { in.block_table[0] = -1; }},
      {"a token past the vocabulary", [](Inputs& in) { in.token_ids[1] = 3; }},
      {"a negative token", [](Inputs& in) { in.token_ids[1] = -1; }},
      {"a position past the context", [](Inputs& in) { in.positions[0] = 20; }},
      {"a logit row past the tokens", [](Inputs& in) { in.logit_rows[0] = 3; }},
  };
  for (const auto& [name, mutate] : mutations) {
    Inputs inputs;
    mutate(inputs);
    EXPECT_EQ((*executor)->Run(inputs.view()).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(device_.steps_begun, 0);
}

TEST_F(ExecutorTest, PlansThatAreNoStepGraphAreRefused) {
  const DimExpr T = DimExpr::Symbol("T");
  const std::vector<std::pair<const char*, std::function<void(plan::Plan&)>>> mutations = {
      {"none of a step graph's inputs", [](plan::Plan& p) { p.tensors[0].name = "ids"; }},
      {"none of a step graph's inputs", [](plan::Plan& p) { p.tensors[0].dtype = DType::kI64; }},
      {"expected f32[L, vocabulary]", [T](plan::Plan& p) { p.tensors[5].shape = {T, 3}; }},
      {"expected f32[L, vocabulary]", [](plan::Plan& p) { p.tensors[5].dtype = DType::kF16; }},
      {"which weight \"table\" is not", [](plan::Plan& p) { p.tensors[2].shape = {9}; }},
      {"which weight \"table\" is not", [](plan::Plan& p) { p.tensors[2].dtype = DType::kI32; }},
      {"weights are missing", [](plan::Plan& p) { p.weights.clear(); }},
      {"more than 6 dimensions", [](plan::Plan& p) { p.tensors[3].shape = {1, 1, 1, 1, 1, 1, 1}; }},
  };
  for (const auto& [message, mutate] : mutations) {
    plan::Plan plan = LookupPlan();
    mutate(plan);
    const absl::Status status = Create(plan).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

// The shapes fit at the bucket's upper end, T = 8, where a plan is validated; but not below.
TEST_F(ExecutorTest, ShapesThatShrinkWithMoreTokensCannotLeaveTheirMemory) {
  const DimExpr T = DimExpr::Symbol("T");
  for (const Dims& shape : {Dims{DimExpr(100) - T * DimExpr(12), 3}, Dims{T - DimExpr(4), 3}}) {
    plan::Plan plan = LookupPlan();
    plan.tensors[3].shape = shape;
    auto executor = Create(plan);
    ASSERT_TRUE(executor.ok()) << executor.status();
    const absl::Status status = (*executor)->Run(Inputs().view()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << DimsToString(shape);
    EXPECT_THAT(std::string(status.message()), HasSubstr("does not fit its memory"));
  }
}

TEST_F(ExecutorTest, MemoryThatIsNotThereIsNamed) {
  device_.available_bytes = 1500;
  const absl::Status status = Create(LookupPlan()).status();
  EXPECT_EQ(status, absl::ResourceExhaustedError("no room for the KV cache"));
}

}  // namespace
}  // namespace flashflow::runtime
