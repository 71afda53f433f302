#include "compiler/analysis/roofline.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_replace.h"
#include "compiler/analysis/cost_model.h"
#include "compiler/analysis/device_spec.h"
#include "compiler/ir/parser.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::analysis {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kSpec = R"({"name": "Toy", "arch": "toy", "source": "made up", "read_gb_per_s": 100,
    "tflop_per_s": {"f32": 1, "bf16": 4}, "launch_us": 2})";

DeviceSpec Toy() { return *ParseDeviceSpec(kSpec); }

std::unique_ptr<ir::Graph> Parse(std::string_view text) {
  auto graph = ir::Parse(text);
  EXPECT_TRUE(graph.ok()) << graph.status();
  return *std::move(graph);
}

constexpr std::string_view kLayer = R"ir(ffir 1
graph @g {
  symbol T [1, 64]
  symbol R [1, 8]
  symbol P [1, 8]
  input %x "x" : f32[T, 64]
  input %ids "ids" : i32[T]
  input %rs "row_start" : i32[R + 1]
  input %kl "kv_len" : i32[R]
  input %bt "block_table" : i32[R, P]
  input %c "cache" : cache[1, 2, 16, bf16]
  weight %t "table" : bf16[1000, 64]
  weight %w0 "w0" : bf16[64, 64]
  weight %w1 "w1" : bf16[64, 64]
  %e = embedding(%t, %ids) {dtype = f32} : f32[T, 64]
  %w = concat(%w0, %w1) {axis = 0} : bf16[128, 64]
  %qkv = linear(%e, %w) : f32[T, 128]
  %c1, %y = cached_attention(%c, %qkv, %rs, %kl, %bt) {heads = 4, layer = 0, scale = 0.25} : cache[1, 2, 16, bf16], f32[T, 64]
  %z = reshape(%y) {shape = dims(T, 8, 8)} : f32[T, 8, 8]
  output "z" %z
  output "cache" %c1
}
)ir";

const ir::Node& Find(const ir::Graph& graph, ir::Op op) {
  for (const auto& node : graph.nodes()) {
    if (node->op() == op) return *node;
  }
  ADD_FAILURE() << "no " << ir::OpName(op);
  return *graph.nodes().front();
}

TEST(CostModelTest, CountsWhatMustMoveAndBeComputed) {
  const auto graph = Parse(kLayer);
  const Workload decode = {.symbols = {{"T", 3}, {"R", 3}, {"P", 4}}, .context = 50};
  // Three rows of the table in bf16, the ids, three rows of f32.
  const auto lookup = CostOf(Find(*graph, ir::Op::kEmbedding), decode);
  ASSERT_TRUE(lookup.ok()) << lookup.status();
  EXPECT_EQ(lookup->bytes_read, 3 * 64 * 2 + 3 * 4);
  EXPECT_EQ(lookup->bytes_written, 3 * 64 * 4);
  EXPECT_EQ(lookup->flops, 0);
  EXPECT_EQ(*CostOf(Find(*graph, ir::Op::kConcat), decode), OpCost());
  EXPECT_EQ(*CostOf(Find(*graph, ir::Op::kReshape), decode), OpCost());
  const auto linear = CostOf(Find(*graph, ir::Op::kLinear), decode);
  EXPECT_EQ(linear->bytes_read, 128 * 64 * 2 + 3 * 64 * 4);
  EXPECT_EQ(linear->bytes_written, 3 * 128 * 4);
  EXPECT_EQ(linear->flops, 2.0 * 3 * 128 * 64);
  EXPECT_EQ(linear->dtype, DType::kBF16);
  // 50 positions of 2 heads of 16 keys and values in bf16 for each row; each of 4 heads' 3 queries sees them.
  const auto attention = CostOf(Find(*graph, ir::Op::kCachedAttention), decode);
  EXPECT_EQ(attention->bytes_read, 3 * 50 * 2 * 2 * 16 * 2 + 3 * 128 * 4 + (4 + 3 + 12) * 4);
  EXPECT_EQ(attention->bytes_written, 3 * 2 * 2 * 16 * 2 + 3 * 64 * 4);
  EXPECT_EQ(attention->flops, 3.0 * 4 * 50 * (4 * 16 + 15));
  EXPECT_EQ(attention->dtype, DType::kBF16);
  // A prompt of 5 tokens after 45: on average a token sees 48.
  const Workload prefill = {.symbols = {{"T", 5}, {"R", 1}, {"P", 4}}, .context = 50};
  EXPECT_EQ(CostOf(Find(*graph, ir::Op::kCachedAttention), prefill)->flops, 5.0 * 4 * 48 * (4 * 16 + 15));
  EXPECT_EQ(CostOf(Find(*graph, ir::Op::kLinear), {.symbols = {}}).status().code(), absl::StatusCode::kNotFound);
}

TEST(CostModelTest, CountsWhatAWindowShows) {
  const auto graph = Parse(absl::StrReplaceAll(kLayer, {{"scale = 0.25}", "scale = 0.25, window = 20}"}}));
  const ir::Node& attention = Find(*graph, ir::Op::kCachedAttention);
  const auto decode = CostOf(attention, {.symbols = {{"T", 3}, {"R", 3}, {"P", 4}}, .context = 50});
  ASSERT_TRUE(decode.ok()) << decode.status();
  EXPECT_EQ(decode->bytes_read, 3 * 20 * 2 * 2 * 16 * 2 + 3 * 128 * 4 + (4 + 3 + 12) * 4);
  EXPECT_EQ(decode->flops, 3.0 * 4 * 20 * (4 * 16 + 15));
  // The first of 5 tokens sees 20 positions, and each other one a new one.
  const auto prefill = CostOf(attention, {.symbols = {{"T", 5}, {"R", 1}, {"P", 4}}, .context = 50});
  EXPECT_EQ(prefill->bytes_read, 24 * 2 * 2 * 16 * 2 + 5 * 128 * 4 + (2 + 1 + 4) * 4);
}

TEST(CostModelTest, CountsHalfTheKeysOfACausalAttentionAndWhatASliceTakes) {
  const auto graph = Parse(R"ir(ffir 1
graph @g {
  input %q "q" : f32[1, 4, 6, 16]
  input %k "k" : f32[1, 4, 6, 16]
  %y = attention(%q, %k, %k) {causal = true, scale = 0.25} : f32[1, 4, 6, 16]
  %z = slice(%q) {axis = 2, start = dim(0), stop = dim(2)} : f32[1, 4, 2, 16]
  output "y" %y
  output "z" %z
}
)ir");
  const auto attention = CostOf(Find(*graph, ir::Op::kAttention), {.symbols = {}});
  ASSERT_TRUE(attention.ok()) << attention.status();
  EXPECT_EQ(attention->flops, 4 * 6 * 3.5 * (4 * 16 + 15));
  const auto slice = CostOf(Find(*graph, ir::Op::kSlice), {.symbols = {}});
  EXPECT_EQ(slice->bytes_read, 4 * 2 * 16 * 4);
  EXPECT_EQ(slice->bytes_written, 4 * 2 * 16 * 4);
}

TEST(RooflineTest, TakesTheLongerOfMemoryAndArithmetic) {
  const auto graph = Parse(kLayer);
  const auto one = ComputeRoofline(*graph, {.symbols = {{"T", 1}, {"R", 1}, {"P", 1}}, .context = 1}, Toy());
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_EQ(one->rows.size(), 3u);
  EXPECT_TRUE(one->rows[1].bound_by_memory);
  EXPECT_DOUBLE_EQ(one->rows[1].floor_us, (128 * 64 * 2 + 64 * 4 + 128 * 4) / 100e3);
  EXPECT_DOUBLE_EQ(one->launch_us, 6);
  EXPECT_DOUBLE_EQ(one->floor_us, one->rows[0].floor_us + one->rows[1].floor_us + one->rows[2].floor_us);
  DeviceSpec slow = Toy();
  slow.tflop_per_s[DType::kBF16] = 0.001;
  const auto many = ComputeRoofline(*graph, {.symbols = {{"T", 64}, {"R", 1}, {"P", 1}}, .context = 64}, slow);
  ASSERT_TRUE(many.ok());
  EXPECT_FALSE(many->rows[1].bound_by_memory);
  EXPECT_DOUBLE_EQ(many->rows[1].floor_us, 2.0 * 64 * 128 * 64 / 1e9 * 1e6);

  const std::string text = RooflineToText(*one, Toy());
  EXPECT_THAT(text, HasSubstr("Toy: 100 GB/s (made up)"));
  EXPECT_THAT(text, HasSubstr("cached_attention       1"));
  EXPECT_THAT(text, HasSubstr("gaps between 3 dependent steps: 6.0 us"));
}

TEST(DeviceSpecTest, NamesWhatIsWrong) {
  EXPECT_EQ(FlopPerS(Toy(), DType::kBF16), 4e12);
  EXPECT_EQ(FlopPerS(Toy(), DType::kI8), 1e12) << "what has no rate runs as f32";
  const auto error = [](std::string_view from, std::string_view to) {
    std::string text(kSpec);
    text.replace(text.find(from), from.size(), to);
    return std::string(ParseDeviceSpec(text).status().message());
  };
  EXPECT_THAT(error("\"name\"", "\"nam\""), HasSubstr("name: expected a string"));
  EXPECT_THAT(error("100", "-1"), HasSubstr("read_gb_per_s: expected a number above 0, got -1"));
  EXPECT_THAT(error("100", "1e999"), HasSubstr("device spec"));
  EXPECT_THAT(error("\"bf16\"", "\"fp4\""), HasSubstr("\"fp4\" is no dtype"));
  EXPECT_THAT(error("\"f32\": 1, ", ""), HasSubstr("expected a rate for f32"));
  EXPECT_THAT(error("\"launch_us\": 2", "\"launch_us\": 2, \"x\": 1"), HasSubstr("\"x\" is no key"));
  for (const char* count : {"0", "-1", "1025", "1.5", "\"x\""}) {
    EXPECT_THAT(error("\"launch_us\": 2", std::string("\"launch_us\": 2, \"sm_count\": ") + count),
                HasSubstr("sm_count: expected a whole number"));
  }
  EXPECT_THAT(error("2}", "2"), HasSubstr("device spec"));
  EXPECT_EQ(ParseDeviceSpec("[]").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(DeviceSpecTest, RoundTrips) {
  const DeviceSpec toy = Toy();
  const auto again = ParseDeviceSpec(DeviceSpecToJson(toy));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(DeviceSpecToJson(*again), DeviceSpecToJson(toy));
  EXPECT_EQ(again->tflop_per_s, toy.tflop_per_s);
  EXPECT_EQ(again->name, "Toy");
  EXPECT_EQ(again->launch_us, 2);
  EXPECT_EQ(again->sm_count, 0);
  DeviceSpec gpu = toy;
  gpu.sm_count = 132;
  EXPECT_EQ(ParseDeviceSpec(DeviceSpecToJson(gpu))->sm_count, 132);
}

TEST(DeviceSpecTest, OurOwnAreThere) {
  for (const std::string name : {"a100", "h100", "h200"}) {
    const auto spec = BuiltinDeviceSpec(name);
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_GT(FlopPerS(*spec, DType::kBF16), FlopPerS(*spec, DType::kF32)) << name;
  }
  EXPECT_THAT(std::string(BuiltinDeviceSpec("h2000").status().message()), HasSubstr("a100, h100, h200"));
}

TEST(DeviceSpecTest, GpusAreKnownByTheirDriversNames) {
  for (const auto& [name, spec] : std::vector<std::pair<std::string, std::string>>{
           {"NVIDIA A100-SXM4-80GB", "a100"}, {"NVIDIA H100 80GB HBM3", "h100"}, {"NVIDIA H200", "h200"}}) {
    EXPECT_EQ(BuiltinSpecOfGpu(name), spec);
    EXPECT_TRUE(BuiltinDeviceSpec(spec).ok()) << spec;
  }
  for (const char* other : {"", "NVIDIA H100 PCIe", "NVIDIA GH200 480GB", "NVIDIA A100-PCIE-40GB", "h200"}) {
    EXPECT_EQ(BuiltinSpecOfGpu(other), "") << other;
  }
}

}  // namespace
}  // namespace flashflow::analysis
