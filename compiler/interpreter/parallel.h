// A loop over the machine's cores.
#ifndef COMPILER_INTERPRETER_PARALLEL_H_
#define COMPILER_INTERPRETER_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace flashflow::interpreter {

// Calls body(begin, end) on disjoint ranges that cover [0, count), at once on several threads where the work is worth
// it. `cost` is about the number of multiplications of one iteration.
void ParallelFor(int64_t count, int64_t cost, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace flashflow::interpreter

#endif  // COMPILER_INTERPRETER_PARALLEL_H_
