// The median of measured times.
#ifndef RUNTIME_CORE_MEDIAN_H_
#define RUNTIME_CORE_MEDIAN_H_

#include <algorithm>
#include <cstddef>
#include <vector>

namespace flashflow::runtime {

// Of an even number of values the mean of the two in the middle. There must be one at least.
inline double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  if (values.size() % 2 != 0) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_MEDIAN_H_
