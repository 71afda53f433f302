#include "compiler/ir/float_convert.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flashflow {
namespace {

// A 16-bit IEEE format: sign, exponent, mantissa.
template <int kMantissaBits>
struct Format {
  static constexpr int kBias = (1 << (14 - kMantissaBits)) - 1;
  static constexpr uint32_t kInfinity = 0x7FFF >> kMantissaBits << kMantissaBits;

  static uint16_t Encode(double value) {
    const uint32_t sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return static_cast<uint16_t>(sign | kInfinity | (1u << (kMantissaBits - 1)));
    if (value == 0) return static_cast<uint16_t>(sign);
    const int exponent = std::max(std::isinf(value) ? kBias + 1 : std::ilogb(value), 1 - kBias);
    if (exponent > kBias) return static_cast<uint16_t>(sign | kInfinity);
    // In units of the last place: below 2^kMantissaBits for a subnormal, up to 2^(kMantissaBits + 1) otherwise. Adding
    // it to the exponent field makes the leading bit, and a carry of the rounding, part of the exponent.
    const double units = std::nearbyint(std::ldexp(std::abs(value), kMantissaBits - exponent));
    const uint32_t field = static_cast<uint32_t>(exponent + kBias - 1) << kMantissaBits;
    return static_cast<uint16_t>(sign | (field + static_cast<uint32_t>(units)));
  }

  static double Decode(uint16_t bits) {
    const int field = (bits & 0x7FFF) >> kMantissaBits;
    const int mantissa = bits & ((1 << kMantissaBits) - 1);
    double magnitude;
    if (field == static_cast<int>(kInfinity >> kMantissaBits)) {
      magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
    } else if (field == 0) {
      magnitude = std::ldexp(mantissa, 1 - kBias - kMantissaBits);
    } else {
      magnitude = std::ldexp(mantissa + (1 << kMantissaBits), field - kBias - kMantissaBits);
    }
    return std::copysign(magnitude, (bits & 0x8000) != 0 ? -1.0 : 1.0);
  }
};

using BF16 = Format<7>;
using F16 = Format<10>;

}  // namespace

uint16_t DoubleToBF16(double value) { return BF16::Encode(value); }
uint16_t DoubleToF16(double value) { return F16::Encode(value); }
double BF16ToDouble(uint16_t bits) { return BF16::Decode(bits); }
double F16ToDouble(uint16_t bits) { return F16::Decode(bits); }

double RoundTo(DType dtype, double value) {
  if (dtype == DType::kBF16) return BF16::Decode(BF16::Encode(value));
  if (dtype == DType::kF16) return F16::Decode(F16::Encode(value));
  return static_cast<float>(value);
}

}  // namespace flashflow
