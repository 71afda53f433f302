#include "kernels/cpu/huge_buffer.h"

#include <sys/mman.h>

#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace flashflow::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// mmap places large anonymous mappings anywhere; only 2 MiB-aligned parts of them can become huge pages, so sizes
// are rounded up to whole ones.
size_t MappedBytes(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

// How much of a buffer is to lie on huge pages. The system gives whole ones: a last one that is filled by less than
// three quarters would waste what a few hundred weights feel.
size_t HugeBytes(size_t bytes) {
  const size_t whole = bytes / kHugePage * kHugePage;
  return bytes - whole >= kHugePage / 4 * 3 ? whole + kHugePage : whole;
}

}  // namespace

absl::StatusOr<HugeBuffer> HugeBuffer::Allocate(size_t bytes) {
  if (bytes == 0) return HugeBuffer();
  void* data = MAP_FAILED;
  if (bytes <= std::numeric_limits<size_t>::max() - kHugePage) {
    data = mmap(nullptr, MappedBytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes of memory"));
  }
  if (HugeBytes(bytes) > 0) madvise(data, HugeBytes(bytes), MADV_HUGEPAGE);  // advice only: without, all still works
  return HugeBuffer(data, bytes);
}

HugeBuffer::~HugeBuffer() {
  if (data_ != nullptr) munmap(data_, MappedBytes(size_));
}

}  // namespace flashflow::cpu
