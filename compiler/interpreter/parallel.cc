#include "compiler/interpreter/parallel.h"

#include <algorithm>
#include <thread>
#include <vector>

namespace flashflow::interpreter {

void ParallelFor(int64_t count, int64_t cost, const std::function<void(int64_t, int64_t)>& body) {
  constexpr double kWorthAThread = 1 << 18;  // starting one takes tens of microseconds
  const double worth = static_cast<double>(count) * static_cast<double>(cost) / kWorthAThread;
  const auto cores = static_cast<double>(std::max(1u, std::thread::hardware_concurrency()));
  const int64_t shares = std::min<int64_t>(count, static_cast<int64_t>(std::clamp(worth, 1.0, cores)));
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < shares; ++i) {
    threads.emplace_back(body, count * i / shares, count * (i + 1) / shares);
  }
  if (shares > 0) body(0, count / shares);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace flashflow::interpreter
