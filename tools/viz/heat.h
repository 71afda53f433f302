// Colors for shares of a time, and the steps between them.
#ifndef TOOLS_VIZ_HEAT_H_
#define TOOLS_VIZ_HEAT_H_

#include <array>
#include <string_view>

namespace flashflow::tools {

struct HeatStep {
  double least;  // share, 0 to 1
  std::string_view color;
  std::string_view label;
};

inline constexpr std::array<HeatStep, 5> kHeat = {{{0.0, "#ffffff", "under 1%"},
                                                   {0.01, "#fef0d9", "1 to 5%"},
                                                   {0.05, "#fdcc8a", "5 to 10%"},
                                                   {0.10, "#fc8d59", "10 to 20%"},
                                                   {0.20, "#e8654a", "over 20%"}}};

constexpr std::string_view HeatColor(double share) {
  std::string_view color = kHeat[0].color;
  for (const HeatStep& step : kHeat) {
    if (share >= step.least) color = step.color;
  }
  return color;
}

}  // namespace flashflow::tools

#endif  // TOOLS_VIZ_HEAT_H_
