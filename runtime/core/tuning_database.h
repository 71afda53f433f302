// What tuning found, as a file: JSON that people can read, that moves from machine to machine, and that several
// processes may write at once.
//
//   {"format": "flashflow tuning", "version": 1, "entries": [
//   {"kernel": "cuda.gemm_sm90", "kernel_version": 1, "dtype": "bf16", "shape": "m=4097..8192,n=3072,k=768",
//    "device": "NVIDIA H200 SXM", "config": {"tile_n": 192}, "us": 70.1, "default_us": 75.2, "floor_us": 61.0,
//    "samples": 9, "source": "measured"}
//   ]}
#ifndef RUNTIME_CORE_TUNING_DATABASE_H_
#define RUNTIME_CORE_TUNING_DATABASE_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/registry/tactic.h"

namespace flashflow::runtime {

inline constexpr int kTuningFormatVersion = 1;
inline constexpr size_t kMaxTuningFileBytes = size_t{8} << 20;
inline constexpr size_t kMaxTuningEntries = 16384;
inline constexpr size_t kMaxTuningTextBytes = 256;  // of each text in an entry

struct TuningKey {
  std::string kernel;
  int32_t kernel_version = 1;
  std::string dtype;   // DTypeName
  std::string shape;   // kernels::ShapeBucket
  std::string device;  // kernels::DeviceLimits::name
  friend auto operator<=>(const TuningKey&, const TuningKey&) = default;
};

struct TuningRecord {
  std::map<std::string, int64_t> config;        // values that are the kernel's default may be left out
  double us = 0, default_us = 0, floor_us = 0;  // of the tactic, of the default in the same rounds, and at least; 0:
                                                // not known
  int64_t samples = 0;
  std::string source;  // what the config rests on: "measured"
  friend bool operator==(const TuningRecord&, const TuningRecord&) = default;
};

TuningKey KeyOf(const kernels::TacticSpec& spec, const kernels::Problem& problem, std::string_view device);

class TuningDatabase {
 public:
  // What `json` holds. Nothing in it is trusted: entries that are damaged are left out, each with a line in `warnings`
  // that names `origin` and the entry. The error of a text that is not such a database at all: DataLoss for one that is
  // damaged or too large, FailedPrecondition for another version's.
  static absl::StatusOr<TuningDatabase> Parse(std::string_view json, std::string_view origin,
                                              std::vector<std::string>* warnings);

  // The file at `path`; empty where there is none, and with a warning where Parse would not have it. Warnings go to the
  // log.
  static TuningDatabase Load(const std::string& path);

  // Adds the entries to the file, in place of what it has under the same keys, and leaves its others: what it holds is
  // read again under a lock (the file `path`.lock). Readers see the old file or the new one. A damaged file is kept
  // beside it, with ".damaged" behind its name. FailedPrecondition for a file of another version, ResourceExhausted for
  // more than the file may hold, Unavailable for a folder that cannot be written.
  static absl::Status Merge(const std::string& path, const TuningDatabase& added);

  const TuningRecord* Find(const TuningKey& key) const;  // nullptr if there is none
  void Put(TuningKey key, TuningRecord record) { entries_[std::move(key)] = std::move(record); }
  const std::map<TuningKey, TuningRecord>& entries() const { return entries_; }

  std::string ToJson() const;  // an entry a line, ordered by key

 private:
  std::map<TuningKey, TuningRecord> entries_;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CORE_TUNING_DATABASE_H_
