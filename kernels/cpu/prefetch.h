// Fetching memory before it is read.
#ifndef KERNELS_CPU_PREFETCH_H_
#define KERNELS_CPU_PREFETCH_H_

#include "hwy/base.h"

namespace flashflow::cpu {

// Starts to fetch the cache line at `address`, which need not be valid, into the second-level cache: a stream of lines
// that are each read once comes faster that way than straight into the first. Always inlined: the compiler takes a
// function that does nothing else for one without effect.
HWY_INLINE void PrefetchStream(const void* address) { __builtin_prefetch(address, /*rw=*/0, /*locality=*/2); }

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_PREFETCH_H_
