#include "kernels/cpu/quantize_groups.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "hwy/base.h"

namespace flashflow::cpu {
namespace {

constexpr float kMostCode = 15;

struct GroupRange {
  hwy::float16_t scale = hwy::F16FromF32(std::numeric_limits<float>::quiet_NaN());
  hwy::float16_t least = scale;
};

GroupRange QuantizeGroup(const float* x, uint8_t* codes) {
  std::fill_n(codes, kInt4Group / 2, uint8_t{0});
  if (!std::all_of(x, x + kInt4Group, [](float value) { return std::isfinite(value); })) return {};
  const auto [min, max] = std::minmax_element(x, x + kInt4Group);
  const GroupRange range = {hwy::F16FromF32((*max - *min) / kMostCode), hwy::F16FromF32(*min)};
  const float scale = hwy::F32FromF16(range.scale);
  const float least = hwy::F32FromF16(range.least);
  if (!std::isfinite(scale) || !std::isfinite(least)) return {};
  if (scale == 0) return range;
  for (int64_t i = 0; i < kInt4Group; ++i) {
    const float code = std::clamp(std::nearbyint((x[i] - least) / scale), 0.0f, kMostCode);
    codes[i / 2] = static_cast<uint8_t>(codes[i / 2] | static_cast<uint8_t>(code) << i % 2 * 4);
  }
  return range;
}

}  // namespace

void QuantizeGroups(const float* x, int64_t groups, uint8_t* codes, uint16_t* scales, ThreadPool* pool) {
  constexpr int64_t kGrain = 256;
  pool->ParallelFor(groups, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const GroupRange range = QuantizeGroup(x + g * kInt4Group, codes + g * kInt4Group / 2);
      std::memcpy(scales + 2 * g, &range, sizeof(range));
    }
  });
}

}  // namespace flashflow::cpu
