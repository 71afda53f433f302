#include "runtime/engine/convert.h"

#include <bit>
#include <cstddef>
#include <cstring>

#include "absl/log/check.h"

namespace flashflow::engine {
namespace {

// f16: 1 sign, 5 exponent (bias 15), 10 fraction bits; bf16: the upper half of an f32.
float FromF16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  const uint32_t fraction = bits & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in f32
    return std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(fraction) * 0x1p-24f) | sign);
  }
  const uint32_t f32_exponent = exponent == 31 ? 255 : exponent + (127 - 15);
  return std::bit_cast<float>(sign | f32_exponent << 23 | fraction << 13);
}

uint16_t ToF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;   // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14 the result is subnormal: adding 0.5 aligns its unit, 2^-24, with f32's last bit, which rounds.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(aligned) - std::bit_cast<uint32_t>(0.5f));
  }
  const uint32_t rebiased = magnitude - ((127u - 15u) << 23);
  return sign | static_cast<uint16_t>((rebiased + 0xfff + ((rebiased >> 13) & 1)) >> 13);
}

float FromBF16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t ToBF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);  // NaN, made quiet
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float Identity(float value) { return value; }

template <typename From, typename To, float (*kLoad)(From), To (*kStore)(float)>
void Loop(const void* src, void* dst, int64_t count) {
  const auto* in = static_cast<const char*>(src);
  auto* out = static_cast<char*>(dst);
  for (int64_t i = 0; i < count; ++i) {
    From from;
    std::memcpy(&from, in + i * static_cast<int64_t>(sizeof(From)), sizeof(From));
    const To to = kStore(kLoad(from));
    std::memcpy(out + i * static_cast<int64_t>(sizeof(To)), &to, sizeof(To));
  }
}

}  // namespace

void ConvertFloats(const void* src, DType src_dtype, void* dst, DType dst_dtype, int64_t count) {
  CHECK(IsFloat(src_dtype) && IsFloat(dst_dtype));
  if (count == 0) return;
  if (src_dtype == dst_dtype) {
    std::memcpy(dst, src, static_cast<size_t>(count * DTypeBytes(src_dtype)));
  } else if (src_dtype == DType::kF32) {
    dst_dtype == DType::kF16 ? Loop<float, uint16_t, Identity, ToF16>(src, dst, count)
                             : Loop<float, uint16_t, Identity, ToBF16>(src, dst, count);
  } else if (src_dtype == DType::kF16) {
    dst_dtype == DType::kF32 ? Loop<uint16_t, float, FromF16, Identity>(src, dst, count)
                             : Loop<uint16_t, uint16_t, FromF16, ToBF16>(src, dst, count);
  } else {
    dst_dtype == DType::kF32 ? Loop<uint16_t, float, FromBF16, Identity>(src, dst, count)
                             : Loop<uint16_t, uint16_t, FromBF16, ToF16>(src, dst, count);
  }
}

}  // namespace flashflow::engine
