#include "runtime/core/executor.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/core/fake_device.h"

namespace flashflow::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::Gt;
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
      CopyRows(c);
      return absl::OkStatus();
    });
    Register("fake.gather", 1, [this](const kernels::LaunchContext& c) {
      if (c.cache != nullptr) cache_ = *c.cache;
      workspace_bytes_ = c.workspace_bytes;
      workspace_ = c.workspace;
      rows_ = c.rows;
      next_weight_ = c.next_inputs.empty() ? nullptr : c.next_inputs[1].data;
      next_gated_ = c.next_gated;
      gathered_.assign(c.inputs.begin(), c.inputs.end());
      copy_takes_ = gather_takes_;
      CopyRows(c);
      copy_takes_ = absl::ZeroDuration();
      return gather_status_;
    });
  }
  // Rows of the first input by the indices in the second, now or when the recording is launched.
  void CopyRows(const kernels::LaunchContext& c) {
    const auto copy = [from = c.inputs[0].data, indices = c.inputs[1], to = c.outputs[0].data, takes = copy_takes_] {
      absl::SleepFor(takes);
      for (int64_t i = 0; i < indices.dims[0]; ++i) {
        const int32_t row = static_cast<const int32_t*>(indices.data)[i];
        std::copy_n(static_cast<const float*>(from) + row * 3, 3, static_cast<float*>(to) + i * 3);
      }
    };
    if (device_.recorded == nullptr) return copy();
    device_.recorded->push_back(copy);
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
  kernels::StepRows rows_;
  const void* next_weight_ = nullptr;
  bool next_gated_ = false;
  std::vector<kernels::TensorView> gathered_;  // the gather's inputs
  std::map<int64_t, int> seen_;
  size_t workspace_bytes_ = 0;
  void* workspace_ = nullptr;
  absl::Status gather_status_;
  absl::Duration copy_takes_, gather_takes_;
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

TEST_F(ExecutorTest, TellsKernelsOfTheRows) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok()) << executor.status();
  ASSERT_TRUE((*executor)->Run(Inputs().view()).ok());
  EXPECT_EQ(rows_.max_row_tokens, 2);
}

// Of the last step it is that of the next token's first.
TEST_F(ExecutorTest, TellsKernelsOfThePackedWeightThatIsReadNext) {
  const void* next_of_first = nullptr;
  Register("fake.linear", 1, [&](const kernels::LaunchContext& c) {
    next_of_first = c.next_inputs[1].data;
    return absl::OkStatus();
  });
  plan::Plan plan = LookupPlan();
  plan.steps[0].op = "fused_linear";
  plan.steps[0].tactics = {{"fake.linear", 1}};
  plan.steps[0].inputs = {0, 2, -1};
  plan.steps[0].attrs["gated"] = true;
  plan.weights[0].layout = "panel16";
  auto executor = Create(plan);
  ASSERT_TRUE(executor.ok()) << executor.status();
  ASSERT_TRUE((*executor)->Run(Inputs().view()).ok());
  EXPECT_EQ(next_of_first, table_);
  EXPECT_EQ(next_weight_, table_);
  EXPECT_TRUE(next_gated_);
  plan = LookupPlan();
  ASSERT_TRUE((*Create(plan))->Run(Inputs().view()).ok());
  EXPECT_EQ(next_weight_, nullptr);
}

// Steps of one token a row, on a device that records launches and draws tokens.
class RecordingTest : public ExecutorTest {
 protected:
  RecordingTest() { device_.can_record = true; }
  static Inputs Decode(std::vector<int32_t> token_ids) {
    Inputs inputs;
    inputs.positions.clear(), inputs.kv_len.clear(), inputs.block_table.clear(), inputs.logit_rows.clear();
    inputs.row_start = {0};
    for (size_t r = 0; r < token_ids.size(); ++r) {
      inputs.positions.push_back(4);
      inputs.kv_len.push_back(5);
      inputs.block_table.insert(inputs.block_table.end(), {0, 1});
      inputs.logit_rows.push_back(static_cast<int32_t>(r));
      inputs.row_start.push_back(static_cast<int32_t>(r) + 1);
    }
    inputs.token_ids = std::move(token_ids);
    return inputs;
  }
};

TEST_F(RecordingTest, RecordsASizeOnceAndLaunchesItWithNewInputs) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok()) << executor.status();
  EXPECT_EQ((*executor)->cache_pages(), 6);
  for (const int32_t token : {1, 2, 0}) {
    const auto logits = (*executor)->Run(Decode({token}).view());
    ASSERT_TRUE(logits.ok()) << logits.status();
    EXPECT_THAT(*logits, ElementsAre(10 * token, 10 * token + 1, 10 * token + 2));
  }
  EXPECT_EQ(device_.steps_begun, 1);
  EXPECT_EQ(rows_.max_row_tokens, 1);
  EXPECT_EQ(cache_.num_pages, 7);  // one more than anybody can name

  ASSERT_TRUE((*executor)->Run(Inputs().view()).ok());  // a step of another form between them
  EXPECT_EQ(device_.steps_begun, 2);
  const auto logits = (*executor)->Run(Decode({2}).view());
  ASSERT_TRUE(logits.ok());
  EXPECT_THAT(*logits, ElementsAre(20, 21, 22));
  EXPECT_EQ(device_.steps_begun, 2);
}

TEST_F(RecordingTest, AStepTakesByHowMuchTheFirstOnesTakeLongerWithIt) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok()) << executor.status();
  gather_takes_ = absl::Milliseconds(20);
  const auto times = (*executor)->TimeSteps(Decode({1}).view());
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_THAT(*times, ElementsAre(Gt(0), Gt((*times)[0])));
  EXPECT_EQ(device_.steps_begun, 1 + 3);  // the first run; recordings of no step, of one, of both
}

TEST_F(RecordingTest, RoundsTheRowsUpByRowsInAPageOfTheirOwn) {
  plan::Plan plan = LookupPlan();
  plan.limits.max_logit_rows = plan.limits.max_rows = 4;
  auto executor = Create(plan);
  ASSERT_TRUE(executor.ok()) << executor.status();
  const auto three = (*executor)->Run(Decode({1, 2, 0}).view());
  ASSERT_TRUE(three.ok()) << three.status();
  EXPECT_THAT(*three, ElementsAre(10, 11, 12, 20, 21, 22, 0, 1, 2));
  EXPECT_EQ(lookup_.dims[0], 4);
  const auto four = (*executor)->Run(Decode({0, 1, 1, 2}).view());
  ASSERT_TRUE(four.ok()) << four.status();
  EXPECT_THAT(*four, ElementsAre(0, 1, 2, 10, 11, 12, 10, 11, 12, 20, 21, 22));
  EXPECT_EQ(device_.steps_begun, 1);
  Inputs outside = Decode({1});
  outside.block_table = {6, 6};  // the page of the rows that nobody sees
  EXPECT_EQ((*executor)->Run(outside.view()).status().code(), absl::StatusCode::kInvalidArgument);
}

// LookupPlan with room for prompts, and with the rows' lengths among what the gather sees.
plan::Plan PromptPlan() {
  plan::Plan plan = LookupPlan();
  plan.limits = {.context_length = 20, .max_tokens = 64, .max_rows = 8, .max_logit_rows = 4};
  plan.buckets = {{.max_tokens = 64, .arena_bytes = 2048, .offsets = {-1, -1, -1, 1024, 0, -1}}};
  const DimExpr R = DimExpr::Symbol("R"), P = DimExpr::Symbol("P");
  plan.tensors.push_back({"row_start", DType::kI32, {R + DimExpr(1)}, plan::Storage::kInput, 2});
  plan.tensors.push_back({"kv_len", DType::kI32, {R}, plan::Storage::kInput, 3});
  plan.tensors.push_back({"block_table", DType::kI32, {R, P}, plan::Storage::kInput, 4});
  plan.inputs = {0, 1, 6, 7, 8};
  for (plan::Bucket& bucket : plan.buckets) bucket.offsets.resize(plan.tensors.size(), -1);
  plan.steps[1].inputs = {3, 1, 6, 7, 8};
  return plan;
}

TEST_F(RecordingTest, RoundsPromptsUpAndRecordsThemWhenTheyComeAgain) {
  auto executor = Create(PromptPlan());
  ASSERT_TRUE(executor.ok()) << executor.status();
  int steps = 0;
  for (const int32_t tokens : {9, 10, 12, 9, 16}) {
    Inputs inputs;
    inputs.token_ids.assign(static_cast<size_t>(tokens), 0);
    inputs.token_ids.back() = 2;
    inputs.positions.assign(static_cast<size_t>(tokens), 0);
    inputs.row_start = {0, tokens};
    inputs.kv_len = {tokens};
    inputs.block_table = {3, 2, 1, 0};
    inputs.pages_per_row = 4;
    inputs.logit_rows = {tokens - 1};
    const auto logits = (*executor)->Run(inputs.view());
    ASSERT_TRUE(logits.ok()) << logits.status();
    EXPECT_THAT(*logits, ElementsAre(20, 21, 22)) << tokens;
    EXPECT_EQ(rows_.max_row_tokens, 16);
    EXPECT_EQ(lookup_.dims[0], 16);
    const auto* row_start = static_cast<const int32_t*>(gathered_[2].data);
    const auto* kv_len = static_cast<const int32_t*>(gathered_[3].data);
    const auto* table = static_cast<const int32_t*>(gathered_[4].data);
    EXPECT_EQ(row_start[1], tokens);
    if (tokens < 16) {
      EXPECT_EQ(gathered_[3].dims[0], 2);
      EXPECT_EQ(row_start[2], 16);
      EXPECT_EQ(kv_len[1], 16 - tokens);
      EXPECT_THAT(std::vector(table, table + 10), ElementsAre(3, 2, 1, 0, 0, 6, 6, 6, 6, 6));
    }
    // The first of its size runs as it is, and the second is recorded. 16 tokens need no row more: another size.
    steps += ++seen_[gathered_[3].dims[0]] <= 2 ? 1 : 0;
    EXPECT_EQ(device_.steps_begun, steps);
  }
}

TEST_F(RecordingTest, DrawsTokensAndReadsThemInTheNextStep) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok()) << executor.status();
  SamplingParams params;
  params.top_k = 2;
  Inputs inputs = Decode({1});
  StepInputs step = inputs.view();
  const Draw zeroth[] = {{&params, 0}};
  step.draws = zeroth;
  const auto first = (*executor)->Start(step);
  ASSERT_TRUE(first.ok()) << first.status();
  params.top_k = 1;
  inputs.token_ids = {2};  // not read
  step.tokens_from_previous = 1;
  const auto second = (*executor)->Start(step);
  ASSERT_TRUE(second.ok()) << second.status();
  auto tokens = (*executor)->Tokens(*first);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(*tokens, ElementsAre(0));  // 1 + 2
  tokens = (*executor)->Tokens(*second);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(*tokens, ElementsAre(1));  // 0 + 1
  EXPECT_EQ((*executor)->Tokens(7).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*executor)->Tokens(-1).status().code(), absl::StatusCode::kInvalidArgument);

  const auto logits = (*executor)->Run(Decode({1}).view());  // reads what it is given again
  ASSERT_TRUE(logits.ok());
  EXPECT_THAT(*logits, ElementsAre(10, 11, 12));
  EXPECT_EQ((*executor)->Start(step).status().code(), absl::StatusCode::kInvalidArgument);  // Run drew nothing
  step.tokens_from_previous = 0;
  EXPECT_TRUE((*executor)->Start(step).ok());
  EXPECT_EQ((*executor)->Tokens(*first).status().code(), absl::StatusCode::kInvalidArgument);  // too long ago
  EXPECT_EQ((*executor)->Run(step).status().code(), absl::StatusCode::kInvalidArgument);
  step.draws = {};
  EXPECT_EQ((*executor)->Start(step).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RecordingTest, ReadsDrawnTokensBeforeThoseOfAPrompt) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok()) << executor.status();
  SamplingParams params;
  params.top_k = 2;
  const Draw zeroth[] = {{&params, 0}};
  Inputs inputs = Decode({1});
  StepInputs step = inputs.view();
  step.draws = zeroth;
  ASSERT_TRUE((*executor)->Start(step).ok());
  inputs = Decode({2, 2});
  step = inputs.view();
  step.tokens_from_previous = 1;  // a row that goes on, and one that was not there before
  const Draw both[] = {{&params, 0}, {&params, 0}};
  step.draws = both;
  const auto second = (*executor)->Start(step);
  ASSERT_TRUE(second.ok()) << second.status();
  const auto tokens = (*executor)->Tokens(*second);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(*tokens, ElementsAre(2, 1));  // 0 + 2 and 2 + 2, of a vocabulary of 3
  for (const int64_t count : {-1, 1, 3}) {
    step.tokens_from_previous = count;  // the step before drew two
    EXPECT_EQ((*executor)->Start(step).status().code(), absl::StatusCode::kInvalidArgument) << count;
  }
}

TEST_F(ExecutorTest, ADeviceWithoutASamplerDrawsNothing) {
  auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok());
  const SamplingParams params;
  const std::vector<Draw> draws(2, Draw{&params, 0});
  const Inputs inputs;
  StepInputs step = inputs.view();
  step.draws = draws;
  EXPECT_EQ((*executor)->Start(step).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ExecutorTest, TimesEachStep) {
  const auto executor = Create(LookupPlan());
  ASSERT_TRUE(executor.ok()) << executor.status();
  const auto times = (*executor)->TimeSteps(Inputs().view());
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_THAT(*times, ElementsAre(Gt(0), Gt(0)));
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
