#include "compiler/proof/agreement.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>

#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/float_convert.h"
#include "compiler/ir/parser.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::proof {
namespace {

using interpreter::Tensor;
using ::testing::HasSubstr;
using ::testing::Optional;

Tensor Of(double value, DType dtype) { return Tensor::Floats({1}, {value}, dtype); }

TEST(AgreementTest, ANarrowerTypeMayRoundAndNoMore) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const double value : {1.0, -3.14159, 40000.0, 0x1.7p-20, 0x1p-24, 0x1.8p-133, 0x1p-140, 0.0}) {
      const double rounded = RoundTo(dtype, value);
      EXPECT_EQ(Difference(Of(value, DType::kF32), Of(rounded, dtype), 0), std::nullopt) << value;
      const double least = dtype == DType::kBF16 ? 0x1p-133 : 0x1p-24;
      const double step = std::max(2 * UnitRoundoff(dtype) * std::abs(value), least);
      EXPECT_NE(Difference(Of(value, DType::kF32), Of(rounded + 2 * step, dtype), 0), std::nullopt) << value;
    }
  }
  // The wider type gets no allowance.
  EXPECT_NE(Difference(Of(1, DType::kBF16), Of(1 + 0x1p-20, DType::kF32), 0), std::nullopt);
}

TEST(AgreementTest, SaysWhatDiffers) {
  EXPECT_THAT(Difference(Tensor::Floats({2}, {1, 2}), Tensor::Floats({2}, {1, 3}), 0.5),
              Optional(HasSubstr("element [1] is 3, expected 2, allowed difference 0.5")));
  EXPECT_THAT(Difference(Tensor::Ints({1}, {1}), Tensor::Ints({1}, {2}), 9),
              Optional(HasSubstr("element [0] is 2, expected 1")));
  EXPECT_THAT(Difference(Tensor::Floats({2}, {1, 2}), Tensor::Floats({1, 2}, {1, 2}), 0), Optional(HasSubstr("shape")));
  EXPECT_THAT(Difference(Of(1, DType::kF32), Tensor::Ints({1}, {1}), 0),
              Optional(HasSubstr("type is i32, expected f32")));
  EXPECT_EQ(Difference(Of(std::nan(""), DType::kF32), Of(std::nan(""), DType::kF32), 0), std::nullopt);
  EXPECT_NE(Difference(Of(std::nan(""), DType::kF32), Of(1, DType::kF32), 1e9), std::nullopt);
  EXPECT_NE(Difference(Of(INFINITY, DType::kF32), Of(-INFINITY, DType::kF32), 1e9), std::nullopt);
}

TEST(AgreementTest, CachesAreComparedByElement) {
  const auto cache = [](double element, DType dtype, int64_t pages) {
    interpreter::Cache cache =
        interpreter::Cache::Empty({.layers = 1, .kv_heads = 1, .head_dim = 2, .dtype = dtype}, pages, /*page_size=*/2);
    cache.data[5] = element;
    return cache;
  };
  EXPECT_EQ(Difference(cache(1, DType::kF32, 1), cache(1, DType::kF32, 1), 0), std::nullopt);
  EXPECT_THAT(Difference(cache(1, DType::kF32, 1), cache(2, DType::kF32, 1), 0.5),
              Optional(HasSubstr("element 5 of the cache is 2, expected 1")));
  EXPECT_EQ(Difference(cache(1 + 0x1p-10, DType::kF32, 1), cache(1, DType::kBF16, 1), 0), std::nullopt) << "rounded";
  EXPECT_THAT(Difference(cache(1, DType::kF32, 1), cache(1, DType::kF32, 2), 0),
              Optional(HasSubstr("different sizes")));
  EXPECT_NE(Difference(cache(1, DType::kF32, 1), Of(1, DType::kF32), 0), std::nullopt);
}

// A cache of codes holds what it was given, or what the codes of the head's row stand for; nothing in between.
TEST(AgreementTest, ACacheOfCodesIsComparedByRow) {
  const auto cache = [](double first, double second, DType dtype) {
    interpreter::Cache cache =
        interpreter::Cache::Empty({.layers = 1, .kv_heads = 1, .head_dim = 2, .dtype = dtype}, 1, /*page_size=*/2);
    cache.data[4] = first;
    cache.data[5] = second;
    return cache;
  };
  const auto want = cache(127, 2.75, DType::kF32);
  EXPECT_EQ(Difference(want, cache(127, 3, DType::kI8), 0), std::nullopt) << "coded";
  EXPECT_EQ(Difference(want, cache(127, 2.75, DType::kI8), 0), std::nullopt) << "kept";
  EXPECT_THAT(Difference(want, cache(127, 2, DType::kI8), 0), Optional(HasSubstr("element 5 of the cache")));
  EXPECT_NE(Difference(want, cache(126, 3, DType::kI8), 0), std::nullopt);
  EXPECT_NE(Difference(want, cache(127, 3, DType::kF32), 0), std::nullopt) << "a float cache is not coded";
  EXPECT_NE(Difference(cache(127, 2.75, DType::kI8), cache(127, 3, DType::kI8), 0), std::nullopt) << "already coded";
}

// Of output "y" of a graph whose inputs are ones, and zeros where they are integers.
double GrowthOf(std::string_view body) {
  const auto graph = ir::Parse("ffir 1 graph @g {" + std::string(body) + "}");
  EXPECT_TRUE(graph.ok()) << graph.status();
  if (!graph.ok()) return NAN;
  interpreter::Values inputs;
  for (const ir::Value* input : (*graph)->inputs()) {
    interpreter::Shape shape;
    for (const DimExpr& dim : input->tensor().shape) shape.push_back(*dim.constant());
    Tensor tensor = Tensor::Zeros(input->tensor().dtype, shape);
    std::fill(tensor.floats.begin(), tensor.floats.end(), 1);
    inputs.emplace(input->name(), std::move(tensor));
  }
  const interpreter::WeightSource weights = interpreter::WeightsFrom({});
  const auto outputs = interpreter::Interpret(**graph, inputs, weights, interpreter::Mode::kWide);
  EXPECT_TRUE(outputs.ok()) << outputs.status();
  const auto growth = ErrorGrowth(**graph, inputs, weights, {}, *outputs);
  EXPECT_TRUE(growth.ok()) << growth.status();
  return growth.ok() ? growth->at("y") : NAN;
}

// An element is moved by up to its size for each of its terms: the most of 64 samples is above half of that.
TEST(AgreementTest, AnErrorGrowsWithTheTermsOfASum) {
  const double alone = GrowthOf(R"(input %x "x" : f32[64] %y = neg(%x) : f32[64] output "y" %y)");
  EXPECT_GT(alone, 0.5);
  EXPECT_LE(alone, 1 + 1e-6);
  const double sum = GrowthOf(R"(input %x "x" : f32[64, 1024]
                                 %y = reduce_sum(%x) {axes = [1]} : f32[64] output "y" %y)");
  EXPECT_GT(sum, 0.5 * 1024 * 1024);
  EXPECT_LE(sum, 1024 * 1024 * (1 + 1e-6));
  // Every size of the result is one of its own, and one of them is that of the sum.
  const double square = GrowthOf(R"(input %x "x" : f32[8, 8] input %w "w" : f32[8, 8]
                                    %y = matmul(%x, %w) : f32[8, 8] output "y" %y)");
  EXPECT_GT(square, 0.5 * 8 * 8);
  EXPECT_LE(square, 8 * 8 * (1 + 1e-6));
}

// What only moves elements adds none of them up, whatever dims go and come.
TEST(AgreementTest, AnErrorDoesNotGrowOnTheWay) {
  for (const char* body : {R"(input %x "x" : f32[64] %y = reshape(%x) {shape = dims(8, 8)} : f32[8, 8])",
                           R"(input %x "x" : f32[64, 8] input %i "i" : i32[16]
                              %y = embedding(%x, %i) {dtype = f32} : f32[16, 8])"}) {
    EXPECT_LE(GrowthOf(std::string(body) + R"( output "y" %y)"), 1 + 1e-6) << body;
  }
}

TEST(AgreementTest, WhatNothingRoundsMayStillBeRoundedOnce) {
  EXPECT_DOUBLE_EQ(GrowthOf(R"(%y = constant() {dtype = f32, value = 3.0} : f32[] output "y" %y)"), 3);
}

// 1 / 0 as it is, and some number as soon as anything moves: that must not excuse every other element.
TEST(AgreementTest, AnInfinityThatRoundingMakesANumberIsNoGrowth) {
  EXPECT_TRUE(std::isfinite(GrowthOf(R"(input %x "x" : f32[4]
      %a = exp(%x) : f32[4] %b = exp(%x) : f32[4] %c = sub(%a, %b) : f32[4] %y = reciprocal(%c) : f32[4]
      output "y" %y)")));
}

}  // namespace
}  // namespace flashflow::proof
