// Sums, products, attention and norms.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_launchers_testing.h"
#include "kernels/registry/cpu_weights.h"

namespace flashflow::kernels {
namespace {

using testing::ElementsAre;

class CpuContractionLaunchersTest : public CpuLaunchersTest {};

TEST_F(CpuContractionLaunchersTest, Cumsum) {
  Tensor<int64_t> x{{2, 2}, {1, 2, 3, 4}}, y{{2, 2}, std::vector<int64_t>(4)};
  ASSERT_TRUE(Run("cpu.cumsum", "cumsum", {{"axis", int64_t{0}}}, {x.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(1, 2, 4, 6));
  ExpectError(Run("cpu.cumsum", "cumsum", {{"axis", int64_t{2}}}, {x.view()}, {y.view()}), "axis 2");
}

TEST_F(CpuContractionLaunchersTest, Reduce) {
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

TEST_F(CpuContractionLaunchersTest, MatMulBroadcastsTheBatch) {
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

TEST_F(CpuContractionLaunchersTest, LinearOfAComputedWeight) {
  F x{{2, 2}, {1, 2, 3, 4}}, weight{{3, 2}, {1, 0, 0, 1, 1, 1}}, bias{{3}, {10, 20, 30}};
  F y{{2, 3}, std::vector<float>(6)};
  ASSERT_TRUE(Run("cpu.linear.row_major", "linear", {}, {x.view(), weight.view(), bias.view()}, {y.view()}).ok());
  EXPECT_THAT(y.data, ElementsAre(11, 22, 33, 13, 24, 37));
}

TEST_F(CpuContractionLaunchersTest, AttentionChecksItsOperands) {
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

TEST_F(CpuContractionLaunchersTest, Softmax) {
  F x{{2, 2}, {0, 0, 0, 0}}, y{{2, 2}, std::vector<float>(4)};
  x.data[2] = std::log(3.0f);
  ASSERT_TRUE(Run("cpu.softmax", "softmax", {{"axis", int64_t{0}}}, {x.view()}, {y.view()}).ok());
  EXPECT_FLOAT_EQ(y.data[0], 0.25);
  EXPECT_FLOAT_EQ(y.data[1], 0.5);
  EXPECT_FLOAT_EQ(y.data[2], 0.75);
  ExpectError(Run("cpu.softmax", "softmax", {{"axis", int64_t{-1}}}, {x.view()}, {y.view()}), "axis -1");
}

TEST_F(CpuContractionLaunchersTest, Linear) {
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

TEST_F(CpuContractionLaunchersTest, Norms) {
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
TEST_F(CpuContractionLaunchersTest, FusedLinear) {
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
  const auto bound = Bind("cpu.fused_linear.panel16", "fused_linear", attrs, {kF32, kF32}, {kF32});
  ASSERT_TRUE(bound.ok());
  const std::vector<TensorView> inputs = {x.view(), weight}, outputs = {y.view()};
  ExpectError((*bound)->Launch({.inputs = inputs, .outputs = outputs, .workspace_bytes = 64, .device = &pool_}),
              "its working memory has 64 bytes");
}

TEST_F(CpuContractionLaunchersTest, FusedLinearOfCodes) {
  // rms_norm gives 1 and -1, codes of 127 and -127 at a scale of 1/127; the products are 2 and 3 times that.
  F x{{2, 1}, {3, -2}}, bias{{2}, {0.5, -10}}, residual{{2, 1}, {1, 4}}, scale{{2}, {0.5, 0.25}};
  F y{{2, 1}, {NAN, NAN}};
  const std::vector<int8_t> codes = {4, 12};
  const auto bytes = static_cast<size_t>(*PackedBytes(kPanel16Int8, {2, 1}, DType::kI8));
  std::vector<std::byte> packed(bytes);
  ASSERT_TRUE(PackCpuWeight(kPanel16Int8, {2, 1}, DType::kI8,
                            {reinterpret_cast<const std::byte*>(codes.data()), codes.size()}, absl::MakeSpan(packed),
                            &pool_)
                  .ok());
  const TensorView weight = View(packed.data(), DType::kI8, {2, 1});
  AttrMap attrs = {{"norm", "rms_norm"}, {"eps", 0.0}, {"activation", "relu"}, {"gated", true}, {"clip", 127.0}};
  const auto run = [&](const TensorView& w, TensorView scales) {
    return Run("cpu.fused_linear.int8", "fused_linear", attrs,
               {x.view(), w, bias.view(), residual.view(), Absent(), Absent(), scales}, {y.view()});
  };
  workspace_.resize(2 * (128 + 4 + 4) / 4);
  ASSERT_EQ(run(weight, scale.view()), absl::OkStatus());
  EXPECT_NEAR(y.data[0], -16.5, 1e-4);
  EXPECT_NEAR(y.data[1], 4, 1e-4);
  F short_scale{{1}, {1}};
  ExpectError(run(weight, short_scale.view()), "weight_scale is f32[1], expected [2]");
  ExpectError(run(View(packed.data(), DType::kI8, {3, 1}), scale.view()), "an even number of rows");
  EXPECT_FALSE(run(weight, Absent()).ok());
  workspace_.pop_back();
  ExpectError(run(weight, scale.view()), "its working memory has 268 bytes, expected 272");
  attrs["clip"] = 0.0;
  ExpectError(run(weight, scale.view()), "clip is 0");
  // Longer rows than 32 bits hold the sums of.
  attrs = {{"norm", "none"}, {"eps", 0.0}, {"activation", "none"}, {"gated", false}, {"clip", 1.0}};
  constexpr int64_t kLong = (int64_t{1} << 17) + 1;
  F long_x{{1, kLong}, std::vector<float>(kLong)}, one{{1, 1}, {0}}, one_scale{{1}, {1}};
  ExpectError(Run("cpu.fused_linear.int8", "fused_linear", attrs,
                  {long_x.view(), View(packed.data(), DType::kI8, {1, kLong}), Absent(), Absent(), Absent(), Absent(),
                   one_scale.view()},
                  {one.view()}),
              "rows of at most 131072 codes");
}

TEST_F(CpuContractionLaunchersTest, FusedLinearOfGroups) {
  // Two rows of a group each: codes all 1 at steps of 2 from -3, and all 15 at steps of 1/2 from 1. 127 / 256 has a
  // code.
  F x{{1, 32}, std::vector<float>(32, 127.0f / 256)}, bias{{2}, {0.5, -10}}, residual{{1, 2}, {100, 200}};
  F y{{1, 2}, {NAN, NAN}};
  std::vector<std::byte> codes(32, std::byte{0x11}), packed(16 * 16);
  std::fill(codes.begin() + 16, codes.end(), std::byte{0xFF});
  ASSERT_TRUE(PackCpuWeight(kPanel16Int4, {2, 16}, DType::kI8, codes, absl::MakeSpan(packed), &pool_).ok());
  const uint16_t ranges[] = {0x4000, 0xC200, 0x3800, 0x3C00};  // 2, -3, 1/2, 1
  std::vector<std::byte> scales(16 * 2 * 2);
  ASSERT_TRUE(PackCpuWeight(kPanel16Groups, {2, 1, 2}, DType::kF16,
                            {reinterpret_cast<const std::byte*>(ranges), sizeof(ranges)}, absl::MakeSpan(scales),
                            &pool_)
                  .ok());
  const TensorView weight = View(packed.data(), DType::kI8, {2, 16});
  AttrMap attrs = {{"norm", "none"}, {"eps", 0.0}, {"activation", "relu"}, {"gated", false}};
  const auto run = [&](const TensorView& w, const TensorView& groups) {
    return Run("cpu.fused_linear.int4", "fused_linear", attrs,
               {x.view(), w, bias.view(), residual.view(), Absent(), Absent(), groups}, {y.view()});
  };
  const TensorView groups = View(scales.data(), DType::kF16, {2, 1, 2});
  ASSERT_EQ(run(weight, groups), absl::OkStatus());
  EXPECT_EQ(y.data, (std::vector<float>{100, 200 + 32 * 127.0f / 256 * 8.5f - 10}));  // relu(-15.4) + 100
  ExpectError(run(weight, View(scales.data(), DType::kF16, {2, 2, 2})), "weight_scale is f16[2, 2, 2]");
  ExpectError(run(View(packed.data(), DType::kI8, {2, 8}), groups), "a last dim of 16");
  ExpectError(run(View(packed.data(), DType::kI8, {3, 16}), groups), "result");
  EXPECT_FALSE(run(weight, Absent()).ok());
  F half{{1, 16}, std::vector<float>(16)};
  ExpectError(Run("cpu.fused_linear.int4", "fused_linear", attrs,
                  {half.view(), View(packed.data(), DType::kI8, {2, 8}), Absent(), Absent(), Absent(), Absent(),
                   View(scales.data(), DType::kF16, {2, 0, 2})},
                  {y.view()}),
              "rows of a multiple of 16 bytes");
  workspace_.resize(9);
  ExpectError(run(weight, groups), "its working memory has 36 bytes, expected 40");
  attrs["norm"] = "rms_norm";
  workspace_.resize(41);
  ExpectError(run(weight, groups), "its working memory has 164 bytes, expected 168");
}

TEST_F(CpuContractionLaunchersTest, AddNormAndRope) {
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

TEST_F(CpuContractionLaunchersTest, RowsThatDoNotFitAreRefused) {
  const AttrMap axis = {{"axis", int64_t{0}}}, eps = {{"eps", 1e-5}}, norm = {{"norm", "rms_norm"}, {"eps", 1e-5}};
  const AttrMap outside = {{"axes", std::vector<int64_t>{std::numeric_limits<int64_t>::min()}}, {"keepdims", false}};
  const TensorView x = Zeros({2, 4}), longer = Zeros({2, 5}), scalar = Zeros({});
  ExpectRefused({
      {"cpu.cumsum", "cumsum", axis, {x}, {longer}, "result is f32[2, 5], expected [2, 4]"},
      {"cpu.softmax", "softmax", axis, {x}, {longer}, "result is f32[2, 5], expected [2, 4]"},
      {"cpu.reduce", "reduce_sum", outside, {x}, {Zeros({2})}, "axes [-9223372036854775808]"},
      {"cpu.rms_norm", "rms_norm", eps, {scalar}, {scalar}, "x is f32[], expected rank 1 or more"},
      {"cpu.rms_norm", "rms_norm", eps, {x}, {longer}, "result is f32[2, 5], expected [2, 4]"},
      {"cpu.add_norm", "add_norm", norm, {scalar, scalar}, {scalar, scalar}, "x is f32[], expected rank 1 or more"},
      {"cpu.add_norm", "add_norm", norm, {x, x}, {longer, x}, "sum is f32[2, 5], expected [2, 4]"},
      {"cpu.add_norm", "add_norm", norm, {x, x}, {x, longer}, "norm is f32[2, 5], expected [2, 4]"},
      {"cpu.rope", "rope", {}, {x, x, x}, {longer}, "result is f32[2, 5], expected [2, 4]"},
      {"cpu.rope", "rope", {}, {scalar, scalar, scalar}, {scalar}, "x is f32[], expected an even last dim"},
      {"cpu.rope", "rope", {}, {longer, longer, longer}, {longer}, "x is f32[2, 5], expected an even last dim"},
      // As dims go, an angle for all channels would broadcast.
      {"cpu.rope", "rope", {}, {x, Zeros({2, 1}), x}, {x}, "cos is f32[2, 1], expected a last dim of 4"},
      {"cpu.rope", "rope", {}, {x, x, Zeros({2, 1})}, {x}, "sin is f32[2, 1], expected a last dim of 4"},
      {"cpu.rope", "rope", {}, {x, Zeros({3, 4}), x}, {x}, "cos is f32[3, 4], expected dims that broadcast"},
      {"cpu.rope", "rope", {}, {x, x, Zeros({3, 4})}, {x}, "sin is f32[3, 4], expected dims that broadcast"},
  });
}

TEST_F(CpuContractionLaunchersTest, ProductsThatDoNotFitAreRefused) {
  const AttrMap gated = {{"norm", "none"}, {"activation", "silu"}, {"gated", true}};
  const TensorView a = Zeros({2, 3}), b = Zeros({3, 4}), weight = Zeros({4, 3});
  ExpectRefused({
      {"cpu.matmul", "matmul", {}, {a, Zeros({3})}, {a}, "b is f32[3], expected [..., 3, n]"},
      {"cpu.matmul", "matmul", {}, {a, b}, {Zeros({1, 2, 4})}, "result is f32[1, 2, 4], expected [..., 2, 4]"},
      {"cpu.matmul", "matmul", {}, {a, b}, {Zeros({3, 4})}, "result is f32[3, 4], expected [..., 2, 4]"},
      {"cpu.matmul", "matmul", {}, {a, b}, {Zeros({2, 5})}, "result is f32[2, 5], expected [..., 2, 4]"},
      {"cpu.matmul", "matmul", {}, {Zeros({2, 2, 3}), b}, {Zeros({3, 2, 4})}, "a is f32[2], expected dims that"},
      {"cpu.linear.row_major", "linear", {}, {Zeros({}), weight}, {Zeros({4})}, "x is f32[], expected a last dim of 3"},
      {"cpu.linear.row_major", "linear", {}, {a, weight}, {Zeros({2, 2, 4})}, "result is f32[2, 2, 4]"},
      {"cpu.linear.row_major", "linear", {}, {a, weight}, {Zeros({3, 4})}, "result is f32[3, 4]"},
      {"cpu.linear.row_major", "linear", {}, {a, weight}, {Zeros({2, 3})}, "result is f32[2, 3]"},
      {"cpu.fused_linear.panel16", "fused_linear", gated, {a, Zeros({4, 3, 1})}, {Zeros({2, 2})}, "rank 2 and an even"},
      {"cpu.fused_linear.panel16", "fused_linear", gated, {b, weight}, {Zeros({3, 2})}, "x is f32[3, 4]"},
      {"cpu.fused_linear.panel16", "fused_linear", gated, {a, weight}, {Zeros({2, 4})}, "result is f32[2, 4]"},
      {"cpu.fused_linear.panel16", "fused_linear", gated, {a, weight, Zeros({2})}, {Zeros({2, 2})}, "bias is f32[2]"},
  });
}

TEST_F(CpuContractionLaunchersTest, HeadsThatDoNotFitAreRefused) {
  const auto row = [](TensorView q, TensorView k, TensorView v, TensorView y, std::string message) -> Refusal {
    const AttrMap attrs = {{"causal", false}, {"scale", 1.0}, {"window", int64_t{0}}};
    return {"cpu.attention", "attention", attrs, {q, k, v}, {y}, std::move(message)};
  };
  const TensorView q = Zeros({1, 2, 1, 4}), k = Zeros({1, 1, 3, 4}), v = Zeros({1, 1, 3, 5}), y = Zeros({1, 2, 1, 5});
  Refusal wide_values = row(q, k, Zeros({1, 1, 3, 513}), Zeros({1, 2, 1, 513}), "head_dim 513");
  wide_values.code = absl::StatusCode::kUnimplemented;
  ExpectRefused({
      // An absent dim reads as 0, as a head of no channels.
      row(Zeros({1, 2, 1}), Zeros({1, 1, 3, 0}), v, y, "q is f32[1, 2, 1], expected rank 4"),
      row(Zeros({1, 2, 1, 0}), Zeros({1, 1, 3}), v, y, "k is f32[1, 1, 3], expected [1, heads, keys, 0]"),
      row(q, Zeros({2, 1, 3, 4}), Zeros({2, 1, 3, 5}), y, "k is f32[2, 1, 3, 4], expected [1, heads, keys, 4]"),
      row(q, Zeros({1, 0, 3, 4}), Zeros({1, 0, 3, 5}), y, "a multiple of 0 heads"),
      row(q, k, Zeros({1, 1, 3}), Zeros({1, 2, 1, 0}), "v is f32[1, 1, 3], expected rank 4"),
      row(q, k, Zeros({1, 2, 3, 5}), y, "v is f32[1, 2, 3, 5], expected [1, 1, 3, 5]"),
      row(q, k, v, Zeros({1, 2, 2, 5}), "result is f32[1, 2, 2, 5], expected [1, 2, 1, 5]"),
      wide_values,
  });
}

}  // namespace
}  // namespace flashflow::kernels
