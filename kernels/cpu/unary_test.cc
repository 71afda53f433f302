#include "kernels/cpu/unary.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Case {
  UnaryOp op;
  const char* name;
  double (*exact)(double);
  double (*max_ulp)(double);  // as the header says
};

double Sigmoid(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }
double GeluArgument(double x) { return std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x); }
double CorrectlyRounded(double) { return 0.5; }
double ThreeUlp(double) { return 3; }
double GeluUlp(double x) { return hwy::SupportedTargets() == HWY_SSE2 && x < 0 ? 10 + x * x : 10; }

const Case kCases[] = {
    {UnaryOp::kNeg, "neg", [](double x) { return -x; }, CorrectlyRounded},
    {UnaryOp::kAbs, "abs", [](double x) { return std::abs(x); }, CorrectlyRounded},
    {UnaryOp::kExp, "exp", [](double x) { return std::exp(x); }, [](double) { return 1.5; }},
    {UnaryOp::kSqrt, "sqrt", [](double x) { return std::sqrt(x); }, CorrectlyRounded},
    {UnaryOp::kRsqrt, "rsqrt", [](double x) { return 1 / std::sqrt(x); }, ThreeUlp},
    {UnaryOp::kReciprocal, "reciprocal", [](double x) { return 1 / x; }, CorrectlyRounded},
    {UnaryOp::kTanh, "tanh", [](double x) { return std::tanh(x); }, ThreeUlp},
    {UnaryOp::kErf, "erf", [](double x) { return std::erf(x); }, ThreeUlp},
    {UnaryOp::kSigmoid, "sigmoid", Sigmoid, ThreeUlp},
    {UnaryOp::kSin, "sin", [](double x) { return std::sin(x); }, ThreeUlp},
    {UnaryOp::kCos, "cos", [](double x) { return std::cos(x); }, ThreeUlp},
    {UnaryOp::kRelu, "relu", [](double x) { return x < 0 ? 0 : x; }, CorrectlyRounded},
    {UnaryOp::kGelu, "gelu", [](double x) { return x * 0.5 * std::erfc(-x / std::numbers::sqrt2); }, GeluUlp},
    {UnaryOp::kGeluTanh, "gelu_tanh", [](double x) { return x * Sigmoid(2 * GeluArgument(x)); },
     [](double x) { return x < 0 ? 10 - 14 * GeluArgument(x) : 10; }},
    {UnaryOp::kSilu, "silu", [](double x) { return x * Sigmoid(x); },
     [](double x) { return std::abs(x * std::exp(x)) < 0x1p-119 ? 3 + std::abs(x) : 3; }},
};

// The distance of neighboring floats at `value`.
double Ulp(double value) {
  const double magnitude = std::abs(value);
  return magnitude < 0x1p-126 ? 0x1p-149 : std::ldexp(1.0, std::ilogb(magnitude) - 23);
}

// Floats of every sign and exponent, more of them where the functions are curved; special values at the ends.
const std::vector<float>& Inputs() {
  static const auto* const inputs = [] {
    auto* values = new std::vector<float>{0.0f, -0.0f, kInf, -kInf, std::numeric_limits<float>::quiet_NaN()};
    for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 20011) {
      values->push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
    }
    for (float x = -110; x < 110; x += 0.00731f) values->push_back(x);
    for (float limit : {87.33655f, 88.72283f, 88.72284f, 103.97208f, 104.0f, 39000.0f, 18.714973f}) {
      for (float x : {limit, std::nextafter(limit, 0.0f), std::nextafter(limit, kInf)}) {
        values->push_back(x);
        values->push_back(-x);
      }
    }
    return values;
  }();
  return *inputs;
}

TEST(UnaryTest, IsAsExactAsTheHeaderSays) {
  ThreadPool pool(1);
  const std::vector<float>& x = Inputs();
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    std::vector<double> exact(x.size());
    for (size_t i = 0; i < x.size(); ++i) exact[i] = c.exact(x[i]);
    ForEachTarget([&] {
      Guarded<float> y(x.size());
      Unary(c.op, x.data(), y.data(), static_cast<int64_t>(x.size()), &pool);
      for (size_t i = 0; i < x.size(); ++i) {
        if (std::isnan(exact[i])) {
          ASSERT_TRUE(std::isnan(y[i])) << x[i] << " gives " << y[i];
        } else if (std::isinf(static_cast<float>(exact[i]))) {
          ASSERT_EQ(y[i], static_cast<float>(exact[i])) << x[i];
        } else {
          ASSERT_LE(std::abs(y[i] - exact[i]), c.max_ulp(x[i]) * Ulp(exact[i])) << x[i] << " gives " << y[i];
        }
      }
    });
  }
}

TEST(UnaryTest, AnElementsResultDependsOnNothingElse) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    ForEachTarget([&] {
      ThreadPool one(1);
      for (int64_t count : kOddSizes) {
        // Large angles among small ones: the sine of a vector must not depend on its other lanes.
        Guarded<float> x(count), together(count), alone(count);
        for (int64_t i = 0; i < count; ++i) x[i] = i % 5 == 3 ? 40000.5f + i : 0.37f * i - 3.1f;
        Unary(c.op, x.data(), together.data(), count, &one);
        for (int64_t i = 0; i < count; ++i) Unary(c.op, x.data() + i, alone.data() + i, 1, &one);
        EXPECT_TRUE(SameBits(together, alone)) << count;
        Unary(c.op, x.data(), x.data(), count, &one);
        EXPECT_TRUE(SameBits(together, x)) << count << " in place";
      }
    });
  }
}

TEST(UnaryTest, ThreadsDoNotChangeBits) {
  constexpr int64_t kCount = 100003;  // enough for several threads
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    std::vector<float> x(kCount);
    for (int64_t i = 0; i < kCount; ++i) x[i] = 1e-3f * static_cast<float>(i) - 20.0f;
    std::vector<float> first;
    for (int threads : kThreadCounts) {
      ThreadPool pool(threads);
      Guarded<float> y(kCount);
      Unary(c.op, x.data(), y.data(), kCount, &pool);
      if (threads == 1) first.assign(y.begin(), y.end());
      EXPECT_TRUE(SameBits(y, first)) << threads << " threads";
    }
  }
}

TEST(UnaryTest, NoElementsAreFine) {
  ThreadPool pool(2);
  Unary(UnaryOp::kExp, nullptr, nullptr, 0, &pool);
}

}  // namespace
}  // namespace flashflow::cpu
