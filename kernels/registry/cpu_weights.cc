#include "kernels/registry/cpu_weights.h"

#include <cstring>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/pack.h"
#include "kernels/registry/catalog.h"

namespace flashflow::kernels {

absl::Status PackCpuWeight(std::string_view layout, absl::Span<const int64_t> shape, DType dtype,
                           absl::Span<const std::byte> row_major, absl::Span<std::byte> packed, cpu::ThreadPool* pool,
                           bool transposed) {
  const absl::StatusOr<int64_t> source_bytes = PackedBytes(kRowMajor, shape, dtype);
  if (!source_bytes.ok()) return source_bytes.status();
  const absl::StatusOr<int64_t> packed_bytes = PackedBytes(layout, shape, dtype);
  if (!packed_bytes.ok()) return packed_bytes.status();
  if (static_cast<int64_t>(row_major.size()) != *source_bytes || static_cast<int64_t>(packed.size()) != *packed_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("packing as ", layout, " wants ", *source_bytes, " bytes from and ",
                                                   *packed_bytes, " bytes to, not ", row_major.size(), " and ",
                                                   packed.size()));
  }
  if (transposed && shape.size() != 2) return absl::InvalidArgumentError("a transposed weight must be a matrix");
  if (packed.empty()) return absl::OkStatus();
  if (layout == kPanel16) {
    cpu::PackPanel16(reinterpret_cast<const float*>(row_major.data()), shape[0], shape[1],
                     reinterpret_cast<float*>(packed.data()), pool, transposed);
  } else if (layout == kPanel16Vnni2) {
    cpu::PackPanel16Vnni2(reinterpret_cast<const uint16_t*>(row_major.data()), shape[0], shape[1],
                          reinterpret_cast<uint16_t*>(packed.data()), pool, transposed);
  } else if (layout == kPanel16Int8) {
    cpu::PackPanel16Int8(reinterpret_cast<const int8_t*>(row_major.data()), shape[0], shape[1], packed.data(), pool,
                         transposed);
  } else if (transposed && (layout == kPanel16Int4 || layout == kPanel16Groups)) {
    return absl::InvalidArgumentError(absl::StrCat("layout ", layout, " takes no transposed weight"));
  } else if (layout == kPanel16Int4) {
    if (shape[1] % (kCodeGroup / 2) != 0) {
      return absl::InvalidArgumentError(absl::StrCat("layout ", layout, " takes rows of a multiple of ", kCodeGroup / 2,
                                                     " bytes, not of ", shape[1]));
    }
    cpu::PackPanel16Int4(row_major.data(), shape[0], 2 * shape[1], packed.data(), pool);
  } else if (layout == kPanel16Groups) {
    if (shape[2] != 2) return absl::InvalidArgumentError(absl::StrCat("layout ", layout, " takes a last dim of 2"));
    cpu::PackPanel16Groups(reinterpret_cast<const uint16_t*>(row_major.data()), shape[0], shape[1],
                           reinterpret_cast<uint16_t*>(packed.data()), pool);
  } else if (transposed) {
    cpu::PackTransposed(row_major.data(), shape[0], shape[1], static_cast<size_t>(DTypeBytes(dtype)), packed.data(),
                        pool);
  } else {
    std::memcpy(packed.data(), row_major.data(), packed.size());
  }
  return absl::OkStatus();
}

}  // namespace flashflow::kernels
