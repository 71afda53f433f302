#include "kernels/registry/device_limits.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace flashflow::kernels {
namespace {

struct ArchRow {
  int compute_capability;
  int shared_kib_per_block;  // with the opt-in
};
constexpr ArchRow kArchs[] = {{70, 96},  {75, 64},   {80, 163},  {86, 99},  {87, 163}, {89, 99},
                              {90, 227}, {100, 227}, {103, 227}, {120, 99}, {121, 99}};

}  // namespace

absl::StatusOr<DeviceLimits> CudaLimits(std::string_view name, std::string_view arch, int sm_count) {
  if (sm_count < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has ", sm_count, " multiprocessors; its device spec needs an \"sm_count\""));
  }
  std::string_view digits = arch;
  absl::ConsumePrefix(&digits, "sm_");
  if (!digits.empty() && (digits.back() == 'a' || digits.back() == 'f')) digits.remove_suffix(1);
  for (const ArchRow& row : kArchs) {
    if (digits != absl::StrCat(row.compute_capability)) continue;
    return DeviceLimits{.name = std::string(name),
                        .kind = "cuda",
                        .arch = std::string(arch),
                        .compute_capability = row.compute_capability,
                        .sm_count = sm_count,
                        .shared_bytes_per_block = int64_t{row.shared_kib_per_block} * 1024,
                        .registers_per_block = 65536,
                        .registers_per_thread = 255,
                        .threads_per_block = 1024};
  }
  return absl::InvalidArgumentError(absl::StrCat("nothing is known of architecture \"", arch, "\" of ", name));
}

}  // namespace flashflow::kernels
