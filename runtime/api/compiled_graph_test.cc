#include "runtime/api/compiled_graph.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/parser.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::runtime {
namespace {

using interpreter::Tensor;
using kernels::TensorView;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Attention of a small encoder with a padding mask, as models write it out, and one with the attention op.
constexpr std::string_view kGraph = R"ir(ffir 1
graph @block {
  symbol B [1, 8]
  symbol S [1, 64]
  input %0 "ids" : i64[B, S]
  input %1 "lengths" : i64[B, 1]
  weight %2 "table" : f32[11, 24]
  weight %3 "qkv" : f32[72, 24]
  weight %4 "bias" : f32[72]
  %5 = embedding(%2, %0) {dtype = f32} : f32[B, S, 24]
  %6 = linear(%5, %3, %4) : f32[B, S, 72]
  %7 = slice(%6) {axis = 2, start = dim(0), stop = dim(24)} : f32[B, S, 24]
  %8 = slice(%6) {axis = 2, start = dim(24), stop = dim(48)} : f32[B, S, 24]
  %9 = slice(%6) {axis = 2, start = dim(48), stop = dim(72)} : f32[B, S, 24]
  %10 = transpose(%8) {perm = [0, 2, 1]} : f32[B, 24, S]
  %11 = matmul(%7, %10) : f32[B, S, S]
  %12 = iota() {dtype = i64, shape = dims(1, S), axis = 1} : i64[1, S]
  %13 = lt(%12, %1) : bool[B, S]
  %14 = reshape(%13) {shape = dims(B, 1, S)} : bool[B, 1, S]
  %15 = constant() {value = -10000.0, dtype = f32} : f32[]
  %16 = where(%14, %11, %15) : f32[B, S, S]
  %17 = softmax(%16) {axis = 2} : f32[B, S, S]
  %18 = matmul(%17, %9) : f32[B, S, 24]
  %19 = reshape(%18) {shape = dims(B, S, 3, 8)} : f32[B, S, 3, 8]
  %20 = transpose(%19) {perm = [0, 2, 1, 3]} : f32[B, 3, S, 8]
  %21 = attention(%20, %20, %20) {causal = true, scale = 0.5} : f32[B, 3, S, 8]
  %22 = reduce_mean(%21) {axes = [1, 3]} : f32[B, S]
  %23 = reduce_max(%22) {axes = [1]} : f32[B]
  %24 = logical_not(%13) : bool[B, S]
  %25 = add(%12, %1) : i64[B, S]
  output "mean" %22
  output "most" %23
  output "padding" %24
  output "sums" %25
}
)ir";

std::unique_ptr<ir::Graph> Graph(std::string_view text) {
  auto graph = ir::Parse(text);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

TensorView View(void* data, DType dtype, const std::vector<int64_t>& dims) {
  TensorView view{.data = data, .dtype = dtype, .rank = static_cast<int>(dims.size())};
  std::copy(dims.begin(), dims.end(), view.dims.begin());
  return view;
}

class CompiledGraphTest : public ::testing::Test {
 protected:
  CompiledGraphTest() : graph_(Graph(kGraph)) {
    auto compiled = CompiledGraph::Compile(*graph_);
    EXPECT_TRUE(compiled.ok()) << compiled.status();
    compiled_ = *std::move(compiled);
    for (const plan::Weight& weight : compiled_->plan().weights) {
      std::vector<float>& values = weights_[weight.sources[0]];
      int64_t count = 1;
      for (int64_t dim : weight.shape) count *= dim;
      values.resize(static_cast<size_t>(count));
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = 0.5f * std::sin(static_cast<float>(i * weight.sources[0].size()) + 0.3f);
      }
      auto loaded = PackWeight(View(values.data(), weight.dtype, weight.shape), weight.layout);
      EXPECT_TRUE(loaded.ok()) << loaded.status();
      loaded_.push_back(*std::move(loaded));
    }
  }

  struct Outputs {
    std::vector<float> mean, most;
    std::vector<uint8_t> padding;
    std::vector<int64_t> sums;
  };

  absl::Status Run(int64_t batch, int64_t sequence, Outputs* outputs) {
    ids_.resize(static_cast<size_t>(batch * sequence));
    for (size_t i = 0; i < ids_.size(); ++i) ids_[i] = static_cast<int64_t>(i * 7 % 11);
    lengths_.clear();
    for (int64_t b = 0; b < batch; ++b) lengths_.push_back(1 + (b + sequence / 2) % sequence);
    outputs->mean.assign(ids_.size(), std::nanf(""));
    outputs->most.assign(static_cast<size_t>(batch), std::nanf(""));
    outputs->padding.assign(ids_.size(), 7);
    outputs->sums.assign(ids_.size(), -1);
    std::vector<const LoadedWeight*> weights;
    for (const LoadedWeight& weight : loaded_) weights.push_back(&weight);
    const std::vector<TensorView> inputs = {View(ids_.data(), DType::kI64, {batch, sequence}),
                                            View(lengths_.data(), DType::kI64, {batch, 1})};
    const std::vector<TensorView> results = {View(outputs->mean.data(), DType::kF32, {batch, sequence}),
                                             View(outputs->most.data(), DType::kF32, {batch}),
                                             View(outputs->padding.data(), DType::kBool, {batch, sequence}),
                                             View(outputs->sums.data(), DType::kI64, {batch, sequence})};
    return compiled_->Run({batch, sequence}, inputs, weights, results);
  }

  std::unique_ptr<ir::Graph> graph_;
  std::unique_ptr<CompiledGraph> compiled_;
  std::map<std::string, std::vector<float>> weights_;
  std::vector<LoadedWeight> loaded_;
  std::vector<int64_t> ids_, lengths_;
};

TEST_F(CompiledGraphTest, AgreesWithTheInterpreterAtAnySize) {
  for (const auto& [batch, sequence] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {2, 5}, {3, 17}, {8, 64}}) {
    SCOPED_TRACE(testing::Message() << batch << " x " << sequence);
    EXPECT_THAT(*compiled_->OutputDims({batch, sequence}),
                ElementsAre(ElementsAre(batch, sequence), ElementsAre(batch), ElementsAre(batch, sequence),
                            ElementsAre(batch, sequence)));
    Outputs outputs;
    ASSERT_EQ(Run(batch, sequence, &outputs), absl::OkStatus());
    absl::flat_hash_map<std::string, Tensor> weights;
    for (const auto& [name, values] : weights_) {
      const ir::Value* weight = graph_->FindWeight(name);
      std::vector<int64_t> shape;
      for (const DimExpr& dim : weight->tensor().shape) shape.push_back(*dim.constant());
      weights[name] = Tensor::Floats(shape, std::vector<double>(values.begin(), values.end()));
    }
    interpreter::Values inputs;
    inputs.emplace("ids", Tensor::Ints({batch, sequence}, ids_, DType::kI64));
    inputs.emplace("lengths", Tensor::Ints({batch, 1}, lengths_, DType::kI64));
    const auto exact = interpreter::Interpret(*graph_, std::move(inputs), interpreter::WeightsFrom(std::move(weights)),
                                              interpreter::Mode::kWide);
    ASSERT_TRUE(exact.ok()) << exact.status();
    // Every value is below 8 and every sum has at most 72 terms; a dozen ops, each within its K eps.
    constexpr double kTolerance = 12 * 8 * 72 * (std::numeric_limits<float>::epsilon() / 2);
    const auto expect_near = [&](const std::vector<float>& got, const char* name) {
      const std::vector<double>& want = std::get<Tensor>(exact->at(name)).floats;
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], kTolerance) << name << " at " << i;
    };
    expect_near(outputs.mean, "mean");
    expect_near(outputs.most, "most");
    const auto& padding = std::get<Tensor>(exact->at("padding")).ints;
    for (size_t i = 0; i < padding.size(); ++i) ASSERT_EQ(int64_t{outputs.padding[i]}, padding[i]) << i;
    EXPECT_EQ(outputs.sums, std::get<Tensor>(exact->at("sums")).ints);
  }
}

TEST_F(CompiledGraphTest, RunsOneAtATimeFromAnyThread) {
  Outputs alone;
  ASSERT_EQ(Run(2, 33, &alone), absl::OkStatus());
  const std::vector<int64_t> ids = ids_, lengths = lengths_;
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> most(4, std::vector<float>(2));
  for (std::vector<float>& result : most) {
    threads.emplace_back([&, this] {
      std::vector<const LoadedWeight*> weights;
      for (const LoadedWeight& weight : loaded_) weights.push_back(&weight);
      std::vector<float> mean(66);
      std::vector<uint8_t> padding(66);
      std::vector<int64_t> sums(66);
      auto* my_ids = const_cast<int64_t*>(ids.data());
      auto* my_lengths = const_cast<int64_t*>(lengths.data());
      EXPECT_EQ(
          compiled_->Run({2, 33}, {View(my_ids, DType::kI64, {2, 33}), View(my_lengths, DType::kI64, {2, 1})}, weights,
                         {View(mean.data(), DType::kF32, {2, 33}), View(result.data(), DType::kF32, {2}),
                          View(padding.data(), DType::kBool, {2, 33}), View(sums.data(), DType::kI64, {2, 33})}),
          absl::OkStatus());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& result : most) EXPECT_EQ(result, alone.most);
}

TEST_F(CompiledGraphTest, AnIndexOutOfRangeIsAnError) {
  Outputs outputs;
  ASSERT_EQ(Run(1, 2, &outputs), absl::OkStatus());
  std::vector<int64_t> ids = {3, 11}, lengths = {1};
  std::vector<const LoadedWeight*> weights;
  for (const LoadedWeight& weight : loaded_) weights.push_back(&weight);
  const absl::Status status = compiled_->Run(
      {1, 2}, {View(ids.data(), DType::kI64, {1, 2}), View(lengths.data(), DType::kI64, {1, 1})}, weights,
      {View(outputs.mean.data(), DType::kF32, {1, 2}), View(outputs.most.data(), DType::kF32, {1}),
       View(outputs.padding.data(), DType::kBool, {1, 2}), View(outputs.sums.data(), DType::kI64, {1, 2})});
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(status.message()), HasSubstr("token id number 1 is 11"));
}

TEST(CheckGraphTest, SaysWhatHasNoKernel) {
  const absl::Status status = CheckGraph(*Graph(R"ir(ffir 1
graph @half {
  input %0 "x" : f16[4]
  %1 = exp(%0) : f16[4] loc "exp (m.py:3)"
  output "y" %1
}
)ir"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("exp(f16)"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("m.py:3"));
}

TEST(PackWeightTest, RowMajorIsTheMemoryItself) {
  float data[6] = {1, 2, 3, 4, 5, 6};
  const TensorView view = View(data, DType::kF32, {2, 3});
  const auto same = PackWeight(view, "row_major");
  ASSERT_TRUE(same.ok());
  EXPECT_EQ(same->view.data, data);
  EXPECT_EQ(same->bytes, 24);
  const auto packed = PackWeight(view, "panel16");
  ASSERT_TRUE(packed.ok());
  EXPECT_EQ(packed->bytes, 16 * 3 * 4);
  EXPECT_EQ(static_cast<const float*>(packed->view.data)[16], 2) << "the second column's panel row";
  EXPECT_EQ(PackWeight(view, "spiral").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace flashflow::runtime
