// Brings weights from the engine file's row-major form into the layout that a plan asks for.
#ifndef KERNELS_REGISTRY_CPU_WEIGHTS_H_
#define KERNELS_REGISTRY_CPU_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "compiler/ir/dtype.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::kernels {

// Writes all PackedBytes(layout, shape, dtype) bytes of `packed` from `row_major`, which has the two axes of `shape`
// exchanged if it is transposed. InvalidArgument as PackedBytes, or if either span has another size than layout, shape
// and dtype say, or a transposed weight is no matrix. `packed` must be aligned to 64 bytes.
absl::Status PackCpuWeight(std::string_view layout, absl::Span<const int64_t> shape, DType dtype,
                           absl::Span<const std::byte> row_major, absl::Span<std::byte> packed, cpu::ThreadPool* pool,
                           bool transposed = false);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_CPU_WEIGHTS_H_
