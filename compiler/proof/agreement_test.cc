#include "compiler/proof/agreement.h"

#include <cmath>

#include "compiler/ir/float_convert.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::proof {
namespace {

using interpreter::Tensor;
using ::testing::HasSubstr;

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
  EXPECT_THAT(*Difference(Tensor::Floats({2}, {1, 2}), Tensor::Floats({2}, {1, 3}), 0.5),
              HasSubstr("element [1] is 3, expected 2, allowed difference 0.5"));
  EXPECT_THAT(*Difference(Tensor::Ints({1}, {1}), Tensor::Ints({1}, {2}), 9),
              HasSubstr("element [0] is 2, expected 1"));
  EXPECT_THAT(*Difference(Tensor::Floats({2}, {1, 2}), Tensor::Floats({1, 2}, {1, 2}), 0), HasSubstr("shape"));
  EXPECT_THAT(*Difference(Of(1, DType::kF32), Tensor::Ints({1}, {1}), 0), HasSubstr("type is i32, expected f32"));
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
  EXPECT_THAT(*Difference(cache(1, DType::kF32, 1), cache(2, DType::kF32, 1), 0.5),
              HasSubstr("element 5 of the cache is 2, expected 1"));
  EXPECT_EQ(Difference(cache(1 + 0x1p-10, DType::kF32, 1), cache(1, DType::kBF16, 1), 0), std::nullopt) << "rounded";
  EXPECT_THAT(*Difference(cache(1, DType::kF32, 1), cache(1, DType::kF32, 2), 0), HasSubstr("different sizes"));
  EXPECT_NE(Difference(cache(1, DType::kF32, 1), Of(1, DType::kF32), 0), std::nullopt);
}

}  // namespace
}  // namespace flashflow::proof
