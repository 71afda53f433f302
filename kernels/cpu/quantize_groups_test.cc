#include "kernels/cpu/quantize_groups.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/base.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

struct Coded {
  std::vector<int> codes;
  std::vector<float> scale, least;
};

Coded Code(const std::vector<float>& x) {
  ThreadPool pool(2);
  const auto groups = static_cast<int64_t>(x.size()) / kInt4Group;
  Guarded<float> from(x.size());
  std::copy(x.begin(), x.end(), from.begin());
  Guarded<uint8_t> codes(x.size() / 2);
  Guarded<uint16_t> scales(static_cast<size_t>(2 * groups));
  QuantizeGroups(from.data(), groups, codes.data(), scales.data(), &pool);
  Coded coded;
  for (size_t i = 0; i < x.size(); ++i) coded.codes.push_back(codes[i / 2] >> (i % 2 * 4) & 15);
  for (int64_t g = 0; g < groups; ++g) {
    hwy::float16_t range[2];
    std::memcpy(range, scales.data() + 2 * g, sizeof(range));
    coded.scale.push_back(hwy::F32FromF16(range[0]));
    coded.least.push_back(hwy::F32FromF16(range[1]));
  }
  return coded;
}

// What codes stand for is coded as it was, whatever the sizes.
TEST(QuantizeGroupsTest, GivesBackCodesThatUseTheWholeRange) {
  std::mt19937 random(1);
  std::vector<float> x;
  std::vector<int> codes;
  std::vector<float> scales, least;
  for (int group = 0; group < 600; ++group) {
    const float scale = hwy::F32FromF16(hwy::F16FromF32(std::ldexp(1.0f + 0.001f * group, group % 13 - 12)));
    const float start = hwy::F32FromF16(hwy::F16FromF32(scale * static_cast<float>(group % 40 - 30) * 0.77f));
    scales.push_back(scale);
    least.push_back(start);
    for (int i = 0; i < kInt4Group; ++i) {
      const int code = i == group % 16 ? 0 : i == 16 + group % 16 ? 15 : static_cast<int>(random() % 16);
      codes.push_back(code);
      x.push_back(scale * static_cast<float>(code) + start);
    }
  }
  const Coded coded = Code(x);
  EXPECT_EQ(coded.codes, codes);
  EXPECT_EQ(coded.scale, scales);
  EXPECT_EQ(coded.least, least);
}

TEST(QuantizeGroupsTest, AGroupOfOneValueHasNoScale) {
  const Coded coded = Code(std::vector<float>(kInt4Group, 0.3f));
  EXPECT_EQ(coded.scale[0], 0);
  EXPECT_EQ(coded.least[0], hwy::F32FromF16(hwy::F16FromF32(0.3f)));
  EXPECT_EQ(coded.codes, std::vector<int>(kInt4Group, 0));
}

TEST(QuantizeGroupsTest, WhatF16DoesNotHoldIsNaN) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float wrong : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), 1e7f, -70000.0f, 3e38f}) {
    std::vector<float> x(2 * kInt4Group, 1.0f);
    x[kInt4Group + 3] = wrong;
    const Coded coded = Code(x);
    EXPECT_TRUE(std::isnan(coded.scale[1]) && std::isnan(coded.least[1])) << wrong;
    EXPECT_EQ(coded.least[0], 1);
    EXPECT_EQ(coded.codes, std::vector<int>(x.size(), 0));
  }
}

}  // namespace
}  // namespace flashflow::cpu
