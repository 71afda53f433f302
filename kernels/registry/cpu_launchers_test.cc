#include "kernels/registry/cpu_launchers.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_launchers_testing.h"

namespace flashflow::kernels {
namespace {

using testing::ElementsAre;

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
  deep.rank = -1;
  ExpectError(launch({a.view(), deep}, {y.view()}, &pool_), "rank -1");
  ExpectError(launch({a.view(), b.view()}, {integers.view()}, &pool_), "result is i32[2], bound as f32");
  ExpectError(launch({a.view(), b.view()}, {View(nullptr, kF32, {2})}, &pool_), "result, f32[2], has no data");

  const auto without_bias = Bind("cpu.linear.row_major", "linear", {}, {kF32, kF32, std::nullopt}, {kF32});
  ASSERT_TRUE(without_bias.ok());
  const std::vector<TensorView> inputs = {Zeros({1, 2}), Zeros({2, 2}), Zeros({2})}, outputs = {Zeros({1, 2})};
  ExpectError((*without_bias)->Launch({.inputs = inputs, .outputs = outputs, .device = &pool_}),
              "input 2 was bound as absent");
}

TEST_F(CpuLaunchersTest, ElementwiseShapesThatDoNotFitAreRefused) {
  constexpr DType kBool = DType::kBool;
  ExpectRefused({
      {"cpu.unary", "neg", {}, {Zeros({-2})}, {Zeros({-2})}, "x is f32[-2]"},
      {"cpu.binary", "add", {}, {Zeros({1, 2}), Zeros({2})}, {Zeros({2})}, "a is f32[1, 2], expected dims that"},
      {"cpu.binary", "add", {}, {Zeros({2}), Zeros({3})}, {Zeros({2})}, "b is f32[3]"},
      {"cpu.integer_binary", "add", {}, {Zeros({3}, kI32), Zeros({2}, kI32)}, {Zeros({2}, kI32)}, "a is i32[3]"},
      {"cpu.integer_binary", "add", {}, {Zeros({2}, kI32), Zeros({3}, kI32)}, {Zeros({2}, kI32)}, "b is i32[3]"},
      {"cpu.compare", "eq", {}, {Zeros({3}), Zeros({2})}, {Zeros({2}, kBool)}, "a is f32[3]"},
      {"cpu.compare", "eq", {}, {Zeros({2}), Zeros({3})}, {Zeros({2}, kBool)}, "b is f32[3]"},
      {"cpu.logical", "logical_or", {}, {Zeros({3}, kBool), Zeros({2}, kBool)}, {Zeros({2}, kBool)}, "a is bool[3]"},
      {"cpu.logical", "logical_or", {}, {Zeros({2}, kBool), Zeros({3}, kBool)}, {Zeros({2}, kBool)}, "b is bool[3]"},
      {"cpu.logical_not", "logical_not", {}, {Zeros({2}, kBool)}, {Zeros({1, 2}, kBool)}, "result is bool[1, 2]"},
      {"cpu.select", "where", {}, {Zeros({2}, kBool), Zeros({3}), Zeros({2})}, {Zeros({2})}, "a is f32[3]"},
      {"cpu.select", "where", {}, {Zeros({2}, kBool), Zeros({2}), Zeros({3})}, {Zeros({2})}, "b is f32[3]"},
  });
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
  ExpectBindError("cpu.constant", "constant", {{"value", -3e9}}, {}, {kI32}, "does not fit i32");
  ExpectBindError("cpu.constant", "constant", {{"value", 2.0}}, {}, {DType::kBool}, "2 does not fit bool");
  ExpectBindError("cpu.constant", "constant", {{"value", -1.0}}, {}, {DType::kBool}, "-1 does not fit bool");
  // Above 2^53 the integers that a double holds are not the only ones that round to it.
  ExpectBindError("cpu.constant", "constant", {{"value", 9007199254740994.0}}, {}, {DType::kI64}, "is not an integer");
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
  last["from_end"] = int64_t{1};
  last["step"] = int64_t{2};
  ExpectBindError("cpu.copy", "slice", last, {kF32}, {kF32}, "a step of 1");
  ExpectBindError("cpu.copy", "slice", attrs(1, 0, 0), {kF32}, {kF32}, "step 0");
  ExpectRefused({
      {"cpu.copy", "slice", attrs(0, 0, 1), {Zeros({2})}, {Zeros({2, 3})}, "result is f32[2, 3]"},
      {"cpu.copy", "slice", attrs(0, 0, 1), {Zeros({2, 3})}, {Zeros({2, 4})}, "result is f32[2, 4]"},
  });
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
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  ExpectRefused({
      // Wrapped around, the sum is 0.
      {"cpu.concat",
       "concat",
       attrs,
       {Zeros({0, kMost}), Zeros({0, kMost}), Zeros({0, 2})},
       {Zeros({0, 0})},
       "smaller"},
      {"cpu.concat", "concat", {{"axis", int64_t{2}}}, {b.view()}, {b.view()}, "axis 2 of f32[2, 2]"},
  });
}

TEST_F(CpuLaunchersTest, LookupsThatDoNotFitAreRefused) {
  const AttrMap dtype = {{"dtype", kF32}};
  const TensorView table = Zeros({3, 2}), ids = Zeros({2, 2}, kI32), rows = Zeros({2}, kI32);
  ExpectRefused({
      {"cpu.embedding", "embedding", dtype, {table, ids}, {Zeros({2, 2, 3})}, "and then 2"},
      {"cpu.embedding", "embedding", dtype, {table, ids}, {Zeros({2, 3, 2})}, "the dims of ids i32[2, 2]"},
      {"cpu.embedding", "embedding", dtype, {table, ids}, {Zeros({2, 2, 2, 1})}, "the dims of ids i32[2, 2]"},
      {"cpu.gather_rows", "gather_rows", {}, {Zeros({}), rows}, {Zeros({2})}, "rank 1 or more"},
      {"cpu.gather_rows", "gather_rows", {}, {table, Zeros({2, 1}, kI32)}, {Zeros({2, 2})}, "rows of rank 1"},
      {"cpu.gather_rows", "gather_rows", {}, {table, rows}, {Zeros({2, 3})}, "2 rows of f32[3, 2]"},
      {"cpu.gather_rows", "gather_rows", {}, {Zeros({3}), Zeros({0}, kI32)}, {Zeros({})}, "0 rows of f32[3]"},
      {"cpu.index", "index", {}, {table, rows}, {Zeros({})}, "the indices' dims and then those of f32[3, 2] from 1"},
      {"cpu.index",
       "index",
       {},
       {table, rows},
       {Zeros({2, 3})},
       "the indices' dims and then those of f32[3, 2] from 1"},
  });
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
  std::vector<int8_t> codes = {1, 127, -2};
  F scale{{3}, {1, 0.5, 4}}, short_scale{{2}, {1, 1}};
  const TensorView coded = View(codes.data(), DType::kI8, {3, 1});
  ASSERT_TRUE(Run("cpu.embedding", "embedding", attrs, {coded, ids.view(), scale.view()}, {narrow.view()}).ok());
  EXPECT_THAT(narrow.data, ElementsAre(-8, 1, 63.5, -8));
  ExpectError(Run("cpu.embedding", "embedding", attrs, {coded, ids.view(), short_scale.view()}, {narrow.view()}),
              "scale is f32[2], expected [3]");
  ExpectError(Run("cpu.embedding", "embedding", attrs, {coded, ids.view()}, {narrow.view()}),
              "scales beside its codes");
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

}  // namespace
}  // namespace flashflow::kernels
