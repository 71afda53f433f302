#include "kernels/registry/cpu_launchers.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_weights.h"

namespace flashflow::kernels {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;

template <typename T>
constexpr DType kDTypeOf = DType::kF32;
template <>
constexpr DType kDTypeOf<int32_t> = DType::kI32;
template <>
constexpr DType kDTypeOf<int64_t> = DType::kI64;
template <>
constexpr DType kDTypeOf<uint8_t> = DType::kBool;  // bytes 0 and 1; vector<bool> has none
template <>
constexpr DType kDTypeOf<uint16_t> = DType::kBF16;  // its bits

TensorView View(void* data, DType dtype, const std::vector<int64_t>& dims) {
  TensorView view{.data = data, .dtype = dtype, .rank = static_cast<int>(dims.size())};
  std::copy(dims.begin(), dims.end(), view.dims.begin());
  return view;
}

// A tensor with its own elements.
template <typename T>
struct Tensor {
  std::vector<int64_t> dims;
  std::vector<T> data;
  TensorView view() { return View(data.data(), kDTypeOf<T>, dims); }
};
using F = Tensor<float>;
using I = Tensor<int32_t>;

TensorView Absent() { return TensorView(); }

// Binds a kernel for exactly the operands given and launches it on them.
class CpuLaunchersTest : public testing::Test {
 protected:
  CpuLaunchersTest() { EXPECT_TRUE(RegisterCpuKernels(&launchers_).ok()); }

  absl::StatusOr<std::unique_ptr<BoundKernel>> Bind(std::string_view id, std::string_view op, const AttrMap& attrs,
                                                    const std::vector<std::optional<DType>>& inputs,
                                                    const std::vector<DType>& outputs) {
    return launchers_.Bind(id, 1, {attrs, inputs, outputs, op});
  }

  absl::Status Run(std::string_view id, std::string_view op, const AttrMap& attrs,
                   const std::vector<TensorView>& inputs, const std::vector<TensorView>& outputs) {
    std::vector<std::optional<DType>> input_dtypes;
    for (const TensorView& view : inputs) {
      input_dtypes.push_back(view.data != nullptr ? std::optional<DType>(view.dtype) : std::nullopt);
    }
    std::vector<DType> output_dtypes;
    for (const TensorView& view : outputs) output_dtypes.push_back(view.dtype);
    absl::StatusOr<std::unique_ptr<BoundKernel>> kernel = Bind(id, op, attrs, input_dtypes, output_dtypes);
    if (!kernel.ok()) return kernel.status();
    return (*kernel)->Launch({.inputs = inputs,
                              .outputs = outputs,
                              .cache = cache_,
                              .workspace = workspace_.data(),
                              .workspace_bytes = workspace_.size() * sizeof(float),
                              .device = &pool_});
  }

  void ExpectBindError(std::string_view id, std::string_view op, const AttrMap& attrs,
                       const std::vector<std::optional<DType>>& inputs, const std::vector<DType>& outputs,
                       const std::string& message) {
    const auto kernel = Bind(id, op, attrs, inputs, outputs);
    EXPECT_EQ(kernel.status().code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(kernel.status().message()), HasSubstr(message));
    EXPECT_THAT(std::string(kernel.status().message()), HasSubstr(id));
  }

  static void ExpectError(const absl::Status& status, const std::string& message,
                          absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  Launchers launchers_;
  cpu::ThreadPool pool_{2};
  const CacheView* cache_ = nullptr;
  std::vector<float> workspace_ = std::vector<float>(64, NAN);
};

constexpr DType kF32 = DType::kF32;
constexpr DType kI32 = DType::kI32;

TEST_F(CpuLaunchersTest, EveryRowOfTheCatalogIsBound) {
  for (const KernelSpec& spec : Catalog()) {
    if (spec.device != "cpu") continue;
    EXPECT_TRUE(launchers_.Has(spec.id, spec.version)) << spec.id;
  }
  EXPECT_EQ(RegisterCpuKernels(&launchers_).code(), absl::StatusCode::kAlreadyExists);
}

// Every rule of the catalog about results in place of operands, and any two together, over several threads' shares and
// a last vector that is not full.
TEST_F(CpuLaunchersTest, KernelsThatMayWriteInPlaceGiveTheSameBits) {
  const std::vector<int64_t> dims = {3, 7, 2050};
  constexpr size_t kElements = 3 * 7 * 2050;
  const auto filled = [](DType dtype, size_t count, uint32_t seed) {
    std::vector<char> bytes(count * DTypeBytes(dtype));
    for (size_t i = 0; i < count; ++i) {
      seed = seed * 1664525 + 1013904223;
      const int32_t small = static_cast<int32_t>(seed >> 25) + 1;
      const auto put = [&](auto value) { std::memcpy(&bytes[i * sizeof(value)], &value, sizeof(value)); };
      if (dtype == DType::kF32) {
        put(static_cast<float>(small) / 32);
      } else if (dtype == DType::kI32) {
        put(small);
      } else if (dtype == DType::kI64) {
        put(int64_t{small});
      } else if (dtype == DType::kBool) {
        bytes[i] = static_cast<char>(small & 1);
      } else {
        for (int64_t b = 0; b < DTypeBytes(dtype); ++b) bytes[i * DTypeBytes(dtype) + b] = static_cast<char>(small);
      }
    }
    return bytes;
  };
  const auto check = [&](const KernelSpec& spec, std::string_view op, DType dtype, int64_t axis,
                         const std::vector<InPlaceRule>& rules) {
    const AttrMap attrs = {{"approximate", "tanh"}, {"axis", axis}, {"eps", 1e-5}, {"norm", "rms_norm"}};
    const auto run = [&](bool in_place) {
      std::vector<std::vector<char>> memory;
      std::vector<TensorView> inputs, outputs;
      for (size_t i = 0; i < spec.inputs.size(); ++i) {
        const std::string_view name = spec.inputs[i].name;
        if (op == "add_norm" && name == "bias") break;  // rms_norm has none
        const bool vector = name == "weight" || name == "bias" || name == "cos" || name == "sin";
        const DType of = name == "condition" ? DType::kBool : dtype;
        memory.push_back(filled(of, vector ? 2050 : kElements, 7 + i));
        inputs.push_back(View(memory.back().data(), of, vector ? std::vector<int64_t>{2050} : dims));
      }
      for (size_t o = 0; o < spec.outputs.size(); ++o) {
        memory.emplace_back(kElements * DTypeBytes(dtype), 0x55);
        outputs.push_back(View(memory.back().data(), dtype, dims));
      }
      for (const InPlaceRule& rule : rules) {
        if (in_place) outputs[rule.output].data = inputs[rule.input].data;
      }
      EXPECT_EQ(Run(spec.id, op, attrs, inputs, outputs), absl::OkStatus());
      std::vector<std::string> results;
      for (const TensorView& view : outputs) {
        results.emplace_back(static_cast<const char*>(view.data), kElements * DTypeBytes(dtype));
      }
      return results;
    };
    EXPECT_TRUE(run(true) == run(false)) << spec.id << " " << op << " " << DTypeName(dtype) << " over input "
                                         << rules[0].input << ", axis " << axis;
  };
  int kernels = 0;
  for (const KernelSpec& spec : Catalog()) {
    if (spec.device != "cpu" || spec.in_place.empty()) continue;
    ++kernels;
    for (const std::string_view op : spec.ops) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kI8, DType::kI32, DType::kI64, DType::kBool}) {
        if (!AcceptsInput(spec, spec.in_place[0].input, dtype)) continue;
        for (const InPlaceRule& rule : spec.in_place) {
          for (const int64_t axis : {1, 2}) {
            if (axis == 2 || op == "softmax") check(spec, op, dtype, axis, {rule});
          }
          for (const InPlaceRule& other : spec.in_place) {
            if (rule.output < other.output && rule.input != other.input) check(spec, op, dtype, 2, {rule, other});
          }
        }
      }
    }
  }
  EXPECT_GE(kernels, 11);
}

TEST_F(CpuLaunchersTest, SignaturesAreHeldToTheCatalog) {
  ExpectBindError("cpu.binary", "gelu", {}, {kF32, kF32}, {kF32}, "not \"gelu\"");
  ExpectBindError("cpu.binary", "add", {}, {kF32}, {kF32}, "input 1 (b) is missing");
  ExpectBindError("cpu.binary", "add", {}, {kF32, std::nullopt}, {kF32}, "input 1 (b) is missing");
  ExpectBindError("cpu.binary", "add", {}, {kF32, kF32, kF32}, {kF32}, "wants 2 inputs");
  ExpectBindError("cpu.binary", "add", {}, {kF32, kF32}, {}, "wants 2 inputs and 1 outputs");
  ExpectBindError("cpu.binary", "add", {}, {kF32, kI32}, {kF32}, "b cannot be i32");
  ExpectBindError("cpu.binary", "add", {}, {kF32, kF32}, {kI32}, "result cannot be i32");
  ExpectBindError("cpu.concat", "concat", {{"axis", int64_t{0}}}, {kF32, kI32}, {kF32}, "mixes f32 and i32");
  ExpectBindError("cpu.concat", "concat", {{"axis", int64_t{0}}}, {kI32, kI32}, {kF32}, "result cannot be f32");
  ExpectBindError("cpu.concat", "concat", {{"axis", int64_t{0}}}, {}, {kF32}, "input 0 (x) is missing");
}

TEST_F(CpuLaunchersTest, LaunchesAreHeldToTheBinding) {
  F a{{2}, {1, 2}}, b{{2}, {3, 4}}, y{{2}, {0, 0}};
  I integers{{2}, {1, 2}};
  const auto kernel = Bind("cpu.binary", "add", {}, {kF32, kF32}, {kF32});
  ASSERT_TRUE(kernel.ok());
  const auto launch = [&](std::vector<TensorView> inputs, std::vector<TensorView> outputs, void* device) {
    return (*kernel)->Launch({.inputs = inputs, .outputs = outputs, .device = device});
  };
  EXPECT_TRUE(launch({a.view(), b.view()}, {y.view()}, &pool_).ok());
  EXPECT_THAT(y.data, ElementsAre(4, 6));
  ExpectError(launch({a.view(), b.view()}, {y.view()}, nullptr), "thread pool");
  ExpectError(launch({a.view()}, {y.view()}, &pool_), "launched with 1 and 1");
  ExpectError(launch({a.view(), b.view()}, {}, &pool_), "launched with 2 and 0");
  ExpectError(launch({a.view(), integers.view()}, {y.view()}, &pool_), "b is i32[2], bound as f32");
  ExpectError(launch({a.view(), View(nullptr, kF32, {2})}, {y.view()}, &pool_), "no data");
  ExpectError(launch({a.view(), View(b.data.data(), kF32, {-2})}, {y.view()}, &pool_), "f32[-2]");
  TensorView deep = b.view();
  deep.rank = kMaxRank + 1;
  ExpectError(launch({a.view(), deep}, {y.view()}, &pool_), "rank 7");
}

TEST_F(CpuLaunchersTest, Unary) {
  const std::pair<const char*, float (*)(float)> functions[] = {
      {"neg", [](float x) { return -x; }},
      {"abs", [](float x) { return std::abs(x); }},
      {"exp", [](float x) { return std::exp(x); }},
      {"sqrt", [](float x) { return std::sqrt(x); }},
      {"rsqrt", [](float x) { return 1 / std::sqrt(x); }},
      {"reciprocal", [](float x) { return 1 / x; }},
      {"tanh", [](float x) { return std::tanh(x); }},
      {"erf", [](float x) { return std::erf(x); }},
      {"sigmoid", [](float x) { return 1 / (1 + std::exp(-x)); }},
      {"sin", [](float x) { return std::sin(x); }},
      {"cos", [](float x) { return std::cos(x); }},
      {"relu", [](float x) { return std::max(x, 0.0f); }},
      {"silu", [](float x) { return x / (1 + std::exp(-x)); }},
  };
  F x{{2, 2}, {0.25, 1, 2, 3}}, y{{2, 2}, {0, 0, 0, 0}};
  for (const auto& [op, function] : functions) {
    ASSERT_TRUE(Run("cpu.unary", op, {}, {x.view()}, {y.view()}).ok()) << op;
    for (int i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(y.data[i], function(x.data[i])) << op;
  }
  // The two gelus differ by 1e-4 or so here: more than float rounding, so a mix-up shows.
  ASSERT_TRUE(Run("cpu.unary", "gelu", {{"approximate", std::string("none")}}, {x.view()}, {y.view()}).ok());
  EXPECT_NEAR(y.data[2], 2 * 0.97724986805182079, 1e-6);
  ASSERT_TRUE(Run("cpu.unary", "gelu", {{"approximate", std::string("tanh")}}, {x.view()}, {y.view()}).ok());
  EXPECT_NEAR(y.data[2], 1.9545976940877752, 1e-6);
  EXPECT_GT(std::abs(1.9545976940877752 - 2 * 0.97724986805182079), 1e-5);
  ExpectBindError("cpu.unary", "gelu", {{"approximate", std::string("fast")}}, {kF32}, {kF32}, "\"fast\"");
  EXPECT_FALSE(Bind("cpu.unary", "gelu", {}, {kF32}, {kF32}).ok());
  F flat{{4}, {0, 0, 0, 0}};
  ExpectError(Run("cpu.unary", "neg", {}, {x.view()}, {flat.view()}), "result is f32[4], expected [2, 2]");
}

TEST_F(CpuLaunchersTest, BinaryBroadcasts) {
  F a{{2, 1, 2}, {1, 2, 3, 4}}, b{{3, 1}, {10, 20, 30}}, y{{2, 3, 2}, std::vector<float>(12)};
  ASSERT_TRUE(Run("cpu.binary", "sub", {}, {a.view(), b.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(-9, -8, -19, -18, -29, -28, -7, -6, -17, -16, -27, -26));
  const std::pair<const char*, float> results[] = {{"add", 9},     {"sub", 5},     {"mul", 14}, {"div", 3.5},
                                                   {"maximum", 7}, {"minimum", 2}, {"pow", 49}};
  F seven{{}, {7}}, two{{}, {2}}, result{{}, {0}};
  for (const auto& [op, expected] : results) {
    ASSERT_TRUE(Run("cpu.binary", op, {}, {seven.view(), two.view()}, {result.view()}).ok()) << op;
    EXPECT_EQ(result.data[0], expected) << op;
  }
  F wrong{{3, 2}, std::vector<float>(6)};
  ExpectError(Run("cpu.binary", "add", {}, {a.view(), b.view()}, {wrong.view()}), "a is f32[2, 1, 2]");
  F other{{2}, {1, 2}};
  ExpectError(Run("cpu.binary", "add", {}, {other.view(), b.view()}, {View(y.data.data(), kF32, {3, 3})}),
              "a is f32[2], expected dims that broadcast to f32[3, 3]");
}

TEST_F(CpuLaunchersTest, Cast) {
  F x{{3}, {-1.5, 2.5, 1e10}};
  I y{{3}, {0, 0, 0}};
  ASSERT_TRUE(Run("cpu.cast", "cast", {{"dtype", kI32}}, {x.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(-1, 2, std::numeric_limits<int32_t>::max()));
  ExpectBindError("cpu.cast", "cast", {{"dtype", kF32}}, {kF32}, {kI32}, "dtype is f32");
  I scalar{{}, {0}};
  ExpectError(Run("cpu.cast", "cast", {{"dtype", kI32}}, {x.view()}, {scalar.view()}), "result is i32[]");
}

TEST_F(CpuLaunchersTest, ConstantAndIota) {
  F y{{2, 2}, std::vector<float>(4)};
  ASSERT_TRUE(Run("cpu.constant", "constant", {{"value", 0.1}, {"dtype", kF32}}, {}, {y.view()}).ok());
  EXPECT_THAT(y.data, testing::Each(0.1f));
  Tensor<int64_t> wide{{2}, {0, 0}};
  ASSERT_TRUE(Run("cpu.constant", "constant", {{"value", -5e12}}, {}, {wide.view()}).ok());
  EXPECT_THAT(wide.data, testing::Each(-5000000000000));
  Tensor<uint16_t> half{{1}, {0}};
  ASSERT_TRUE(Run("cpu.constant", "constant", {{"value", 1.0}}, {}, {half.view()}).ok());
  EXPECT_EQ(half.data[0], 0x3F80);
  ExpectBindError("cpu.constant", "constant", {{"value", 0.5}}, {}, {kI32}, "0.5 is not an integer");
  ExpectBindError("cpu.constant", "constant", {{"value", NAN}}, {}, {kI32}, "is not an integer");
  ExpectBindError("cpu.constant", "constant", {{"value", 3e9}}, {}, {kI32}, "does not fit i32");
  EXPECT_FALSE(Bind("cpu.constant", "constant", {}, {}, {kF32}).ok());

  I counted{{2, 3}, std::vector<int32_t>(6)};
  ASSERT_TRUE(Run("cpu.iota", "iota", {{"axis", int64_t{1}}}, {}, {counted.view()}).ok());
  EXPECT_THAT(counted.data, ElementsAre(0, 1, 2, 0, 1, 2));
  ExpectError(Run("cpu.iota", "iota", {{"axis", int64_t{2}}}, {}, {counted.view()}), "axis 2 of i32[2, 3]");
}

TEST_F(CpuLaunchersTest, Transpose) {
  F x{{2, 3, 2}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}, y{{3, 2, 2}, std::vector<float>(12)};
  const AttrMap attrs = {{"perm", std::vector<int64_t>{1, 2, 0}}};
  ASSERT_TRUE(Run("cpu.copy", "transpose", attrs, {x.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11));
  ExpectError(Run("cpu.copy", "transpose", attrs, {x.view()}, {x.view()}), "expected [3, 2, 2]");
  F matrix{{2, 2}, std::vector<float>(4)};
  ExpectError(Run("cpu.copy", "transpose", attrs, {matrix.view()}, {y.view()}), "expected rank 3");
  ExpectBindError("cpu.copy", "transpose", {{"perm", std::vector<int64_t>{0, 2}}}, {kF32}, {kF32}, "not a permutation");
  ExpectBindError("cpu.copy", "transpose", {{"perm", std::vector<int64_t>{0, 0}}}, {kF32}, {kF32}, "not a permutation");
  ExpectBindError("cpu.copy", "transpose", {{"perm", std::vector<int64_t>{0, -1}}}, {kF32}, {kF32},
                  "not a permutation");
}

TEST_F(CpuLaunchersTest, Expand) {
  I x{{2, 1}, {1, 2}}, y{{2, 2, 3}, std::vector<int32_t>(12)};
  ASSERT_TRUE(Run("cpu.copy", "expand", {}, {x.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2));
  ExpectError(Run("cpu.copy", "expand", {}, {y.view()}, {x.view()}), "broadcast to i32[2, 1]");
}

TEST_F(CpuLaunchersTest, Slice) {
  const auto attrs = [](int64_t axis, DimExpr start, int64_t step) {
    return AttrMap{{"axis", axis}, {"start", start}, {"stop", DimExpr(6)}, {"step", step}};
  };
  F x{{2, 6}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}, y{{2, 3}, std::vector<float>(6)};
  ASSERT_TRUE(Run("cpu.copy", "slice", attrs(1, 1, 2), {x.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(1, 3, 5, 7, 9, 11));
  F row{{1, 6}, std::vector<float>(6)};
  ASSERT_TRUE(Run("cpu.copy", "slice", attrs(0, 1, 1), {x.view()}, {row.view()}).ok());
  EXPECT_THAT(row.data, ElementsAre(6, 7, 8, 9, 10, 11));
  float nothing = 0;
  EXPECT_TRUE(Run("cpu.copy", "slice", attrs(1, 6, 1), {x.view()}, {View(&nothing, kF32, {2, 0})}).ok());
  ExpectError(Run("cpu.copy", "slice", attrs(1, 2, 2), {x.view()}, {y.view()}), "expected a slice from 2 by 2");
  ExpectError(Run("cpu.copy", "slice", attrs(1, 4, 1), {x.view()}, {y.view()}), "expected a slice from 4 by 1");
  ExpectError(Run("cpu.copy", "slice", attrs(1, std::numeric_limits<int64_t>::max(), 1), {x.view()}, {y.view()}),
              "expected a slice");
  ExpectError(Run("cpu.copy", "slice", attrs(1, 0, std::numeric_limits<int64_t>::max()), {x.view()}, {y.view()}),
              "expected a slice");
  ExpectError(Run("cpu.copy", "slice", attrs(2, 0, 1), {x.view()}, {y.view()}), "axis 2 of f32[2, 6]");
  ExpectError(Run("cpu.copy", "slice", attrs(0, 0, 1), {x.view()}, {y.view()}), "expected a slice");
  ExpectBindError("cpu.copy", "slice", attrs(1, DimExpr::Symbol("T"), 1), {kF32}, {kF32}, "start T");
  ExpectBindError("cpu.copy", "slice", attrs(1, -1, 1), {kF32}, {kF32}, "start -1");
  F line{{4}, {0, 1, 2, 3}}, part{{2}, {0, 0}}, long_part{{4}, {0, 0, 0, 0}};
  AttrMap last = attrs(0, DimExpr::Symbol("T"), 1);
  last["from_end"] = int64_t{1};
  ASSERT_TRUE(Run("cpu.copy", "slice", last, {line.view()}, {part.view()}).ok());
  EXPECT_THAT(part.data, ElementsAre(1, 2));
  ExpectError(Run("cpu.copy", "slice", last, {line.view()}, {long_part.view()}), "a slice from");
  last["from_end"] = int64_t{-1};
  ExpectBindError("cpu.copy", "slice", last, {kF32}, {kF32}, "distance");
  ExpectBindError("cpu.copy", "slice", attrs(1, 0, 0), {kF32}, {kF32}, "step 0");
}

TEST_F(CpuLaunchersTest, Concat) {
  F a{{2, 1}, {1, 2}}, b{{2, 2}, {3, 4, 5, 6}}, y{{2, 3}, std::vector<float>(6)};
  const AttrMap attrs = {{"axis", int64_t{1}}};
  ASSERT_TRUE(Run("cpu.concat", "concat", attrs, {a.view(), b.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(1, 3, 4, 2, 5, 6));
  ExpectError(Run("cpu.concat", "concat", attrs, {a.view(), a.view()}, {y.view()}), "expected 2 along axis 1");
  F c{{3, 1}, {1, 2, 3}};
  ExpectError(Run("cpu.concat", "concat", attrs, {b.view(), c.view()}, {y.view()}), "x is f32[3, 1]");
  F d{{2}, {1, 2}};
  ExpectError(Run("cpu.concat", "concat", attrs, {b.view(), d.view()}, {y.view()}), "x is f32[2]");
}

TEST_F(CpuLaunchersTest, EmbeddingChecksEveryId) {
  F table{{3, 2}, {0, 1, 10, 11, 20, 21}}, y{{2, 2, 2}, std::vector<float>(8)};
  I ids{{2, 2}, {2, 0, 1, 2}};
  const AttrMap attrs = {{"dtype", kF32}};
  ASSERT_TRUE(Run("cpu.embedding", "embedding", attrs, {table.view(), ids.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(20, 21, 0, 1, 10, 11, 20, 21));
  Tensor<uint16_t> bf16{{3, 1}, {0x3F80, 0x4000, 0xC040}};
  F narrow{{2, 2, 1}, std::vector<float>(4)};
  ASSERT_TRUE(Run("cpu.embedding", "embedding", attrs, {bf16.view(), ids.view()}, {narrow.view()}).ok());
  EXPECT_THAT(narrow.data, ElementsAre(-3, 1, 2, -3));
  for (int32_t bad : {-1, 3, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    I bad_ids{{2, 2}, {0, 0, bad, 0}};
    ExpectError(Run("cpu.embedding", "embedding", attrs, {table.view(), bad_ids.view()}, {y.view()}),
                "token id number 2", absl::StatusCode::kOutOfRange);
  }
  F short_result{{2, 2}, std::vector<float>(4)};
  ExpectError(Run("cpu.embedding", "embedding", attrs, {table.view(), ids.view()}, {short_result.view()}),
              "the dims of ids");
  F vector{{3}, {0, 1, 2}};
  ExpectError(Run("cpu.embedding", "embedding", attrs, {vector.view(), ids.view()}, {y.view()}), "rank 2");
}

TEST_F(CpuLaunchersTest, EmbeddingTakesWideIds) {
  F table{{3, 1}, {0, 10, 20}}, y{{2, 1}, std::vector<float>(2)};
  Tensor<int64_t> ids{{2}, {2, 1}}, bad{{2}, {0, int64_t{1} << 32}};
  const AttrMap attrs = {{"dtype", kF32}};
  ASSERT_TRUE(Run("cpu.embedding", "embedding", attrs, {table.view(), ids.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(20, 10));
  ExpectError(Run("cpu.embedding", "embedding", attrs, {table.view(), bad.view()}, {y.view()}), "token id number 1",
              absl::StatusCode::kOutOfRange);
}

using B = Tensor<uint8_t>;

TEST_F(CpuLaunchersTest, MasksAndIndices) {
  Tensor<int64_t> row{{3}, {0, 1, 2}}, column{{2, 1}, {1, 2}}, sums{{2, 3}, std::vector<int64_t>(6)};
  B mask{{2, 3}, std::vector<uint8_t>(6)};
  const std::pair<const char*, std::vector<int64_t>> arithmetic[] = {{"add", {1, 2, 3, 2, 3, 4}},
                                                                     {"sub", {1, 0, -1, 2, 1, 0}},
                                                                     {"mul", {0, 1, 2, 0, 2, 4}},
                                                                     {"maximum", {1, 1, 2, 2, 2, 2}},
                                                                     {"minimum", {0, 1, 1, 0, 1, 2}}};
  for (const auto& [op, exact] : arithmetic) {
    ASSERT_TRUE(Run("cpu.integer_binary", op, {}, {column.view(), row.view()}, {sums.view()}).ok()) << op;
    EXPECT_EQ(sums.data, exact) << op;
  }
  const std::pair<const char*, std::vector<uint8_t>> comparisons[] = {
      {"eq", {0, 1, 0, 0, 0, 1}}, {"ne", {1, 0, 1, 1, 1, 0}}, {"lt", {0, 0, 1, 0, 0, 0}},
      {"le", {0, 1, 1, 0, 0, 1}}, {"gt", {1, 0, 0, 1, 1, 0}}, {"ge", {1, 1, 0, 1, 1, 1}}};
  for (const auto& [op, exact] : comparisons) {
    ASSERT_TRUE(Run("cpu.compare", op, {}, {column.view(), row.view()}, {mask.view()}).ok()) << op;
    EXPECT_EQ(mask.data, exact) << op;
  }
  B first{{3}, {1, 0, 1}};
  ASSERT_TRUE(Run("cpu.logical", "logical_and", {}, {mask.view(), first.view()}, {mask.view()}).ok());
  EXPECT_THAT(mask.data, ElementsAre(1, 0, 0, 1, 0, 1));
  ASSERT_TRUE(Run("cpu.logical", "logical_or", {}, {mask.view(), first.view()}, {mask.view()}).ok());
  EXPECT_THAT(mask.data, ElementsAre(1, 0, 1, 1, 0, 1));
  ASSERT_TRUE(Run("cpu.logical_not", "logical_not", {}, {mask.view()}, {mask.view()}).ok());
  EXPECT_THAT(mask.data, ElementsAre(0, 1, 0, 0, 1, 0));
  ASSERT_TRUE(Run("cpu.select", "where", {}, {first.view(), column.view(), row.view()}, {sums.view()}).ok());
  EXPECT_THAT(sums.data, ElementsAre(1, 1, 1, 2, 1, 2));

  F floats{{3}, {0, 1, 2}};
  ExpectBindError("cpu.compare", "eq", {}, {kF32, kI32}, {DType::kBool}, "differ in dtype");
  ExpectBindError("cpu.select", "where", {}, {DType::kBool, kF32, kI32}, {kF32}, "differ in dtype");
  ExpectError(Run("cpu.integer_binary", "add", {}, {row.view(), row.view()}, {column.view()}), "broadcast");
  ExpectError(Run("cpu.select", "where", {}, {mask.view(), row.view(), row.view()}, {row.view()}), "condition");
}

TEST_F(CpuLaunchersTest, IndexChecksEveryIndex) {
  F x{{2, 3, 1}, {0, 1, 2, 10, 11, 12}}, y{{2, 2, 1}, std::vector<float>(4)};
  Tensor<int64_t> rows{{2, 1}, {1, 0}};
  I columns{{2}, {-1, 0}};
  const std::vector<TensorView> inputs = {x.view(), rows.view(), columns.view()};
  ASSERT_TRUE(Run("cpu.index", "index", {}, inputs, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(12, 10, 2, 0));
  columns.data[1] = 3;
  ExpectError(Run("cpu.index", "index", {}, inputs, {y.view()}), "index number 1 into axis 1 is 3",
              absl::StatusCode::kOutOfRange);
  columns.data[1] = 0;
  ExpectError(Run("cpu.index", "index", {}, inputs, {x.view()}), "indices is");
  ExpectError(Run("cpu.index", "index", {}, {columns.view(), columns.view(), columns.view()}, {columns.view()}),
              "result is");
  ExpectBindError("cpu.index", "index", {}, {kF32, kI32}, {kI32}, "differ in dtype");
}

TEST_F(CpuLaunchersTest, Cumsum) {
  Tensor<int64_t> x{{2, 2}, {1, 2, 3, 4}}, y{{2, 2}, std::vector<int64_t>(4)};
  ASSERT_TRUE(Run("cpu.cumsum", "cumsum", {{"axis", int64_t{0}}}, {x.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(1, 2, 4, 6));
  ExpectError(Run("cpu.cumsum", "cumsum", {{"axis", int64_t{2}}}, {x.view()}, {y.view()}), "axis 2");
}

TEST_F(CpuLaunchersTest, Reduce) {
  F x{{2, 3}, {1, 2, 3, 4, 5, 9}}, columns{{3}, std::vector<float>(3)}, rows{{2, 1}, std::vector<float>(2)};
  const auto axes = [](std::vector<int64_t> list) { return AttrMap{{"axes", std::move(list)}, {"keepdims", false}}; };
  ASSERT_TRUE(Run("cpu.reduce", "reduce_sum", axes({0}), {x.view()}, {columns.view()}).ok());
  EXPECT_THAT(columns.data, ElementsAre(5, 7, 12));
  ASSERT_TRUE(Run("cpu.reduce", "reduce_mean", axes({1}), {x.view()}, {rows.view()}).ok());
  EXPECT_THAT(rows.data, ElementsAre(2, 6));
  ASSERT_TRUE(Run("cpu.reduce", "reduce_max", axes({1}), {x.view()}, {rows.view()}).ok());
  EXPECT_THAT(rows.data, ElementsAre(3, 9));
  ExpectError(Run("cpu.reduce", "reduce_sum", axes({2}), {x.view()}, {rows.view()}), "axes [2]");
  ExpectError(Run("cpu.reduce", "reduce_sum", axes({1, 1}), {x.view()}, {rows.view()}), "axes [1, 1]");
  ExpectError(Run("cpu.reduce", "reduce_sum", axes({0}), {x.view()}, {rows.view()}), "result is");
  F none{{2, 0}, {}};
  none.data.reserve(1);
  ExpectError(Run("cpu.reduce", "reduce_max", axes({1}), {none.view()}, {rows.view()}), "elements");
}

TEST_F(CpuLaunchersTest, MatMulBroadcastsTheBatch) {
  F a{{2, 1, 1, 2}, {1, 2, 3, 4}}, b{{2, 2, 1}, {1, 10, 100, 1000}}, y{{2, 2, 1, 1}, std::vector<float>(4)};
  ASSERT_TRUE(Run("cpu.matmul", "matmul", {}, {a.view(), b.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(21, 2100, 43, 4300));
  ExpectError(Run("cpu.matmul", "matmul", {}, {b.view(), b.view()}, {y.view()}), "b is f32[2, 2, 1]");
  ExpectError(Run("cpu.matmul", "matmul", {}, {a.view(), b.view()}, {b.view()}), "result is");
  F vector{{2}, {1, 2}};
  ExpectError(Run("cpu.matmul", "matmul", {}, {vector.view(), b.view()}, {y.view()}), "rank 2");
  F three{{3, 2, 1}, std::vector<float>(6)};
  ExpectError(Run("cpu.matmul", "matmul", {}, {a.view(), three.view()}, {y.view()}), "broadcast");
}

TEST_F(CpuLaunchersTest, LinearOfAComputedWeight) {
  F x{{2, 2}, {1, 2, 3, 4}}, weight{{3, 2}, {1, 0, 0, 1, 1, 1}}, bias{{3}, {10, 20, 30}};
  F y{{2, 3}, std::vector<float>(6)};
  ASSERT_TRUE(Run("cpu.linear.row_major", "linear", {}, {x.view(), weight.view(), bias.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(11, 22, 33, 13, 24, 37));
}

TEST_F(CpuLaunchersTest, AttentionChecksItsOperands) {
  F q{{1, 2, 1, 2}, {0, 0, 0, 0}}, k{{1, 1, 2, 2}, {1, 0, 0, 1}}, v{{1, 1, 2, 1}, {2, 4}}, y{{1, 2, 1, 1}, {0, 0}};
  const auto run = [&](int64_t window) {
    return Run("cpu.attention", "attention", {{"causal", true}, {"scale", 1.0}, {"window", window}},
               {q.view(), k.view(), v.view()}, {y.view()});
  };
  ASSERT_TRUE(run(0).ok());
  EXPECT_THAT(y.data, ElementsAre(3, 3));
  ASSERT_TRUE(run(1).ok());
  EXPECT_THAT(y.data, ElementsAre(4, 4));
  ExpectError(run(-1), "window is -1");
  v.dims = {1, 2, 1, 1};
  ExpectError(run(0), "v is f32[1, 2, 1, 1]");
  v.dims = {1, 1, 2, 1};
  k.dims = {1, 2, 1, 2};
  v.dims = {1, 2, 1, 1};
  ASSERT_TRUE(run(0).ok());
  q.dims = {1, 1, 2, 2};
  ExpectError(run(0), "a multiple of 2 heads");
  k.dims = {1, 1, 1, 4};
  ExpectError(run(0), "k is f32[1, 1, 1, 4]");
  q.dims = {1, 2, 1, 2};
  k.dims = {1, 1, 2, 2};
  v.dims = {1, 1, 2, 1};
  const auto masked = [&](TensorView mask) {
    return Run("cpu.attention", "attention", {{"causal", false}, {"scale", 1.0}, {"window", int64_t{0}}},
               {q.view(), k.view(), v.view(), mask}, {y.view()});
  };
  B seen{{2, 1, 2}, {1, 0, 0, 0}};
  ASSERT_TRUE(masked(seen.view()).ok());
  EXPECT_THAT(y.data, ElementsAre(2, 0));
  F bias{{2}, {0, 100}};
  ASSERT_TRUE(masked(bias.view()).ok());
  EXPECT_THAT(y.data, ElementsAre(4, 4));
  F long_bias{{3}, {0, 0, 0}};
  ExpectError(masked(long_bias.view()), "mask is f32[3]");
  F wide{{1, 1, 1, 513}, std::vector<float>(513)};
  ExpectError(Run("cpu.attention", "attention", {{"causal", true}, {"scale", 1.0}, {"window", int64_t{0}}},
                  {wide.view(), wide.view(), wide.view()}, {wide.view()}),
              "head_dim 513", absl::StatusCode::kUnimplemented);
}

TEST_F(CpuLaunchersTest, GatherRowsChecksEveryRow) {
  F x{{3, 2}, {0, 1, 10, 11, 20, 21}}, y{{2, 2}, std::vector<float>(4)};
  I rows{{2}, {2, 0}};
  ASSERT_TRUE(Run("cpu.gather_rows", "gather_rows", {}, {x.view(), rows.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(20, 21, 0, 1));
  I bad{{2}, {0, 3}};
  ExpectError(Run("cpu.gather_rows", "gather_rows", {}, {x.view(), bad.view()}, {y.view()}), "row number 1 is 3",
              absl::StatusCode::kOutOfRange);
  ExpectError(Run("cpu.gather_rows", "gather_rows", {}, {x.view(), rows.view()}, {x.view()}), "expected 2 rows");
  ExpectBindError("cpu.gather_rows", "gather_rows", {}, {kF32, kI32}, {DType::kBF16}, "differ in dtype");
}

TEST_F(CpuLaunchersTest, Softmax) {
  F x{{2, 2}, {0, 0, 0, 0}}, y{{2, 2}, std::vector<float>(4)};
  x.data[2] = std::log(3.0f);
  ASSERT_TRUE(Run("cpu.softmax", "softmax", {{"axis", int64_t{0}}}, {x.view()}, {y.view()}).ok());
  EXPECT_FLOAT_EQ(y.data[0], 0.25);
  EXPECT_FLOAT_EQ(y.data[1], 0.5);
  EXPECT_FLOAT_EQ(y.data[2], 0.75);
  ExpectError(Run("cpu.softmax", "softmax", {{"axis", int64_t{-1}}}, {x.view()}, {y.view()}), "axis -1");
}

TEST_F(CpuLaunchersTest, Linear) {
  F x{{2, 1, 3}, {1, 2, 3, 4, 5, 6}}, bias{{2}, {100, 200}}, y{{2, 1, 2}, std::vector<float>(4)};
  const std::vector<float> row_major = {1, 0, 2, 0, 1, 1};  // [2, 3]
  const auto packed = [&](std::string_view layout, DType dtype, const void* data) {
    std::vector<std::byte> bytes(static_cast<size_t>(PackedBytes(layout, {2, 3}, dtype).value()));
    const auto* source = static_cast<const std::byte*>(data);
    EXPECT_TRUE(PackCpuWeight(layout, {2, 3}, dtype, {source, static_cast<size_t>(6 * DTypeBytes(dtype))},
                              absl::MakeSpan(bytes), &pool_)
                    .ok());
    return bytes;
  };
  std::vector<std::byte> f32 = packed(kPanel16, kF32, row_major.data());
  const TensorView weight = View(f32.data(), kF32, {2, 3});
  ASSERT_TRUE(Run("cpu.linear.panel16", "linear", {}, {x.view(), weight, bias.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(107, 205, 116, 211));
  ASSERT_TRUE(Run("cpu.linear.panel16", "linear", {}, {x.view(), weight}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(7, 5, 16, 11));
  ASSERT_TRUE(Run("cpu.linear.panel16", "linear", {}, {x.view(), weight, Absent()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(7, 5, 16, 11));
  const uint16_t bf16_row_major[] = {0x3F80, 0, 0x4000, 0, 0x3F80, 0x3F80};
  std::vector<std::byte> bf16 = packed(kPanel16Vnni2, DType::kBF16, bf16_row_major);
  ASSERT_TRUE(Run("cpu.linear.panel16", "linear", {}, {x.view(), View(bf16.data(), DType::kBF16, {2, 3}), bias.view()},
                  {y.view()})
                  .ok());
  EXPECT_THAT(y.data, ElementsAre(107, 205, 116, 211));

  const auto run = [&](TensorView in, TensorView w, TensorView b, TensorView out) {
    return Run("cpu.linear.panel16", "linear", {}, {in, w, b}, {out});
  };
  F short_x{{2, 2}, {1, 2, 3, 4}}, short_bias{{1}, {1}}, wide{{2, 1, 3}, std::vector<float>(6)};
  ExpectError(run(short_x.view(), weight, bias.view(), y.view()), "a last dim of 3");
  ExpectError(run(x.view(), weight, short_bias.view(), y.view()), "bias is f32[1], expected [2]");
  ExpectError(run(x.view(), weight, bias.view(), wide.view()), "with a last dim of 2");
  ExpectError(run(x.view(), View(f32.data(), kF32, {6}), bias.view(), y.view()), "weight is f32[6]");
}

TEST_F(CpuLaunchersTest, Norms) {
  F x{{1, 2}, {3, 5}}, weight{{2}, {10, 20}}, bias{{2}, {1, 2}}, y{{1, 2}, std::vector<float>(2)};
  ASSERT_TRUE(
      Run("cpu.layer_norm", "layer_norm", {{"eps", 0.0}}, {x.view(), weight.view(), bias.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(-9, 22));
  ASSERT_TRUE(Run("cpu.layer_norm", "layer_norm", {{"eps", 3.0}}, {x.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(-0.5, 0.5));
  ASSERT_TRUE(Run("cpu.layer_norm", "layer_norm", {{"eps", 0.0}}, {x.view(), Absent(), bias.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(0, 3));
  ASSERT_TRUE(Run("cpu.rms_norm", "rms_norm", {{"eps", 47.0}}, {x.view(), weight.view()}, {y.view()}).ok());
  EXPECT_FLOAT_EQ(y.data[0], 3.75);
  EXPECT_FLOAT_EQ(y.data[1], 12.5);
  ASSERT_TRUE(Run("cpu.rms_norm", "rms_norm", {{"eps", 47.0}}, {x.view()}, {y.view()}).ok());
  EXPECT_FLOAT_EQ(y.data[1], 0.625);
  F short_weight{{1}, {1}};
  ExpectError(Run("cpu.rms_norm", "rms_norm", {{"eps", 0.0}}, {x.view(), short_weight.view()}, {y.view()}),
              "weight is f32[1], expected [2]");
  ExpectError(
      Run("cpu.layer_norm", "layer_norm", {{"eps", 0.0}}, {x.view(), weight.view(), short_weight.view()}, {y.view()}),
      "bias is f32[1], expected [2]");
  EXPECT_FALSE(Bind("cpu.rms_norm", "rms_norm", {}, {kF32}, {kF32}).ok());
}

// Two layers of a cache of 4 pages of 2 slots, 1 kv head of 2 elements; one row on pages 3 and 1.
class CpuCacheKernelsTest : public CpuLaunchersTest {
 protected:
  CpuCacheKernelsTest() { cache_ = &view_; }

  absl::Status Append(int64_t layer) {
    return Run("cpu.kv_append", "kv_append", {{"layer", layer}},
               {k_.view(), v_.view(), row_start_.view(), kv_len_.view(), block_table_.view()}, {});
  }
  absl::Status Attend(int64_t layer, int64_t window = 0) {
    return Run("cpu.paged_attention", "paged_attention", {{"layer", layer}, {"scale", 2.0}, {"window", window}},
               {q_.view(), row_start_.view(), kv_len_.view(), block_table_.view()}, {out_.view()});
  }

  std::vector<float> memory_ = std::vector<float>(2 * 4 * 2 * 2 * 2, NAN);
  CacheView view_{
      .data = memory_.data(), .dtype = kF32, .layers = 2, .num_pages = 4, .kv_heads = 1, .page_size = 2, .head_dim = 2};
  F k_{{3, 1, 2}, {1, 0, 0, 1, 1, 1}}, v_{{3, 1, 2}, {1, 2, 3, 4, 5, 6}};
  F q_{{3, 2, 2}, {0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 9, 9}}, out_{{3, 2, 2}, std::vector<float>(12)};
  I row_start_{{2}, {0, 3}}, kv_len_{{1}, {3}}, block_table_{{1, 2}, {3, 1}};
};

TEST_F(CpuCacheKernelsTest, AppendThenAttend) {
  ASSERT_TRUE(Append(1).ok());
  // Layer 1 begins at 32; its page 3, keys: slots 0 and 1; values 4 later.
  EXPECT_EQ(memory_[32 + 3 * 8], 1);
  EXPECT_EQ(memory_[32 + 3 * 8 + 3], 1);
  EXPECT_EQ(memory_[32 + 3 * 8 + 4], 1);
  EXPECT_EQ(memory_[32 + 1 * 8 + 4], 5);
  EXPECT_TRUE(std::isnan(memory_[32 + 1 * 8 + 6]));
  for (int i = 0; i < 32; ++i) EXPECT_TRUE(std::isnan(memory_[i]));
  ASSERT_TRUE(Attend(1).ok());
  const float e2 = std::exp(2.0f);
  EXPECT_FLOAT_EQ(out_.data[0], 1);                        // token 0 sees itself
  EXPECT_FLOAT_EQ(out_.data[4], (e2 * 1 + 3) / (e2 + 1));  // token 1, head 0: scores 2 and 0
  EXPECT_FLOAT_EQ(out_.data[6], (1 + e2 * 3) / (e2 + 1));  // head 1: 0 and 2
  EXPECT_FLOAT_EQ(out_.data[8], 3);                        // token 2, head 0: all alike
  EXPECT_NEAR(out_.data[10], 5, 1e-5);                     // head 1: 18, 18 and 36
  ASSERT_TRUE(Attend(1, /*window=*/2).ok());
  EXPECT_FLOAT_EQ(out_.data[8], 4);  // slots 1 and 2 only
}

TEST_F(CpuCacheKernelsTest, StepsThatLeaveTheCacheAreRefused) {
  ASSERT_TRUE(Append(0).ok());
  const auto both = [&](const std::string& message, absl::StatusCode code = absl::StatusCode::kOutOfRange) {
    ExpectError(Append(0), message, code);
    ExpectError(Attend(0), message, code);
  };
  block_table_.data = {3, 4};
  both("block_table[0, 1] is 4, but the cache has 4 pages");
  block_table_.data = {-1, 1};
  both("block_table[0, 0] is -1");
  block_table_.data = {3, 1};
  kv_len_.data = {5};
  both("kv_len[0] is 5");
  kv_len_.data = {2};
  both("kv_len[0] is 2");
  kv_len_.data = {3};
  row_start_.data = {0, 2};
  both("row_start ends with 2 for 3 tokens");
  row_start_.data = {0, 3};
  block_table_ = {{2, 1}, {3, 1}};
  both("block_table is i32[2, 1], expected [1, pages]", absl::StatusCode::kInvalidArgument);
  block_table_ = {{1, 2}, {3, 1}};
  row_start_ = {{3}, {0, 3, 3}};
  both("row_start is i32[3], expected [2]", absl::StatusCode::kInvalidArgument);
  row_start_ = {{2}, {0, 3}};
  ExpectError(Append(2), "layer 2 of a KV cache of 2", absl::StatusCode::kOutOfRange);
  ExpectError(Attend(-1), "layer -1", absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(Attend(0).ok());
}

TEST_F(CpuCacheKernelsTest, OperandsThatDoNotFitTheCacheAreRefused) {
  v_.dims = {3, 2, 1};
  ExpectError(Append(0), "v is f32[3, 2, 1], expected [3, 1, 2]");
  v_.dims = {3, 1, 2};
  k_.dims = {3, 2, 1};
  ExpectError(Append(0), "k is f32[3, 2, 1], expected [3, 1, 2]");
  q_.dims = {3, 1, 4};
  ExpectError(Attend(0), "q is f32[3, 1, 4]");
  view_.head_dim = 257;
  ExpectError(Attend(0), "head_dim 257", absl::StatusCode::kUnimplemented);
  view_.head_dim = 0;
  ExpectError(Attend(0), "empty dims");
  view_.head_dim = 2;
  view_.dtype = DType::kI8;
  ExpectError(Append(0), "a KV cache of i8");
  cache_ = nullptr;
  ExpectError(Append(0), "without a KV cache");
  ExpectBindError("cpu.paged_attention", "paged_attention",
                  {{"layer", int64_t{0}}, {"scale", 1.0}, {"window", int64_t{-1}}}, {kF32, kI32, kI32, kI32}, {kF32},
                  "window is -1");
}

// cached_attention is rope of queries and keys, kv_append and paged_attention.
TEST_F(CpuCacheKernelsTest, CachedAttentionEqualsItsParts) {
  // Per token two query heads, a key, a value.
  F qkv{{3, 8}, {1, 2, 3, 4, 5, 6, 1, 2, 3, 1, 4, 1, 5, 9, 3, 4, 2, 7, 1, 8, 2, 8, 5, 6}};
  F cos{{3, 2}, {1, 1, 0.5, 0.5, 0, 0}}, sin{{3, 2}, {0, 0, 2, 2, 1, 1}};
  const AttrMap attrs = {{"layer", int64_t{1}}, {"heads", int64_t{2}}, {"scale", 0.25}, {"window", int64_t{2}}};
  const auto fused = [&](bool turned) {
    std::vector<TensorView> inputs = {qkv.view(), row_start_.view(), kv_len_.view(), block_table_.view()};
    if (turned) inputs.insert(inputs.end(), {cos.view(), sin.view()});
    F out{{3, 4}, std::vector<float>(12, NAN)};
    EXPECT_EQ(Run("cpu.cached_attention", "cached_attention", attrs, inputs, {out.view()}), absl::OkStatus());
    return out.data;
  };
  for (const bool turned : {false, true}) {
    std::fill(memory_.begin(), memory_.end(), NAN);
    const std::vector<float> got = fused(turned);
    const std::vector<float> filled = memory_;
    std::fill(memory_.begin(), memory_.end(), NAN);
    for (int t = 0; t < 3; ++t) {
      for (int head = 0; head < 4; ++head) {
        float* x = qkv.data.data() + t * 8 + head * 2;
        float turn[2] = {x[0], x[1]};
        if (turned && head < 3) {
          turn[0] = x[0] * cos.data[t * 2] - x[1] * sin.data[t * 2];
          turn[1] = x[1] * cos.data[t * 2 + 1] + x[0] * sin.data[t * 2 + 1];
        }
        float* to = head < 2 ? &q_.data[t * 4 + head * 2] : head == 2 ? &k_.data[t * 2] : &v_.data[t * 2];
        std::copy_n(turn, 2, to);
      }
    }
    ASSERT_TRUE(Append(1).ok());
    EXPECT_EQ(std::memcmp(filled.data(), memory_.data(), memory_.size() * sizeof(float)), 0);
    ASSERT_EQ(
        Run("cpu.paged_attention", "paged_attention", {{"layer", int64_t{1}}, {"scale", 0.25}, {"window", int64_t{2}}},
            {q_.view(), row_start_.view(), kv_len_.view(), block_table_.view()}, {out_.view()}),
        absl::OkStatus());
    EXPECT_EQ(got, out_.data) << "turned " << turned;
  }

  const auto error = [&](const std::vector<TensorView>& inputs, const std::string& message) {
    F out{{3, 4}, std::vector<float>(12)};
    const absl::Status status = Run("cpu.cached_attention", "cached_attention", attrs, inputs, {out.view()});
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  F narrow{{3, 6}, std::vector<float>(18)}, few{{2, 2}, std::vector<float>(4)};
  const TensorView r = row_start_.view(), l = kv_len_.view(), b = block_table_.view();
  error({narrow.view(), r, l, b}, "qkv is f32[3, 6], expected [tokens, 8]");
  error({qkv.view(), r, l, b, cos.view()}, "cos without sin");
  error({qkv.view(), r, l, b, cos.view(), few.view()}, "sin is f32[2, 2]");
  workspace_.resize(17);
  error({qkv.view(), r, l, b, cos.view(), sin.view()}, "its working memory has 68 bytes, expected 72");
  block_table_.data = {3, 4};
  error({qkv.view(), r, l, b}, "the cache has 4 pages");
}

TEST_F(CpuLaunchersTest, FusedLinear) {
  // rms_norm gives 1 and -1; the products are 2 and 3 times that; the gate is the first half.
  F x{{2, 1}, {3, -2}}, bias{{2}, {0.5, -10}}, residual{{2, 1}, {1, 4}}, y{{2, 1}, {NAN, NAN}};
  alignas(64) float packed[16] = {2, 3};
  const TensorView weight = View(packed, kF32, {2, 1});
  const AttrMap attrs = {{"norm", "rms_norm"}, {"eps", 0.0}, {"activation", "relu"}, {"gated", true}};
  const auto run = [&](const AttrMap& with, const TensorView& w, TensorView r) {
    return Run("cpu.fused_linear.panel16", "fused_linear", with, {x.view(), w, bias.view(), r}, {y.view()});
  };
  ASSERT_EQ(run(attrs, weight, residual.view()), absl::OkStatus());
  EXPECT_EQ(y.data, (std::vector<float>{-16.5, 4}));
  F scale{{1}, {2}};
  ASSERT_EQ(Run("cpu.fused_linear.panel16", "fused_linear", attrs, {x.view(), weight, Absent(), Absent(), scale.view()},
                {y.view()}),
            absl::OkStatus());
  EXPECT_EQ(y.data, (std::vector<float>{24, 0}));

  F wide{{2, 2}, std::vector<float>(4)};
  ExpectError(run(attrs, weight, wide.view()), "residual is f32[2, 2], expected [2, 1]");
  ExpectError(run(attrs, View(packed, kF32, {3, 1}), residual.view()), "an even number of rows");
  AttrMap swish = attrs;
  swish["activation"] = "swish";
  ExpectError(run(swish, weight, residual.view()), "no activation is named \"swish\"");
  AttrMap norm = attrs;
  norm["norm"] = "batch_norm";
  ExpectError(run(norm, weight, residual.view()), "norm is \"batch_norm\"");
  workspace_.resize(1);
  ExpectError(run(attrs, weight, residual.view()), "its working memory has 4 bytes, expected 8");
}

TEST_F(CpuLaunchersTest, AddNormAndRope) {
  F x{{1, 4}, {0, 2, 3, 4}}, residual{{1, 4}, {1, 0, 0, 2}}, weight{{4}, {1, 2, 3, 4}}, bias{{4}, {0.5, 0.5, 0.5, -1}};
  F sum{{1, 4}, std::vector<float>(4)}, norm{{1, 4}, std::vector<float>(4)}, wide{{2, 4}, std::vector<float>(8)};
  const AttrMap attrs = {{"norm", "layer_norm"}, {"eps", 0.5}};
  ASSERT_EQ(Run("cpu.add_norm", "add_norm", attrs, {x.view(), residual.view(), weight.view(), bias.view()},
                {sum.view(), norm.view()}),
            absl::OkStatus());
  EXPECT_EQ(sum.data, (std::vector<float>{1, 2, 3, 6}));
  EXPECT_EQ(norm.data, (std::vector<float>{-0.5, -0.5, 0.5, 5}));
  ExpectError(Run("cpu.add_norm", "add_norm", attrs, {x.view(), wide.view()}, {sum.view(), norm.view()}),
              "residual is");

  // Two heads of one token, angles that they share.
  F heads{{1, 2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}}, cos{{1, 1, 4}, {1, 2, 3, 4}}, sin{{4}, {10, 20, 30, 40}};
  F turned{{1, 2, 4}, std::vector<float>(8, NAN)}, three{{3}, {1, 2, 3}};
  ASSERT_EQ(Run("cpu.rope", "rope", {}, {heads.view(), cos.view(), sin.view()}, {turned.view()}), absl::OkStatus());
  EXPECT_EQ(turned.data, (std::vector<float>{-29, -76, 39, 96, -65, -148, 171, 272}));
  ExpectError(Run("cpu.rope", "rope", {}, {heads.view(), three.view(), sin.view()}, {turned.view()}), "cos is f32[3]");
}

}  // namespace
}  // namespace flashflow::kernels
