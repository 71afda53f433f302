// Writes an engine file (.ff): sections from memory, weights streamed from their source.
#ifndef RUNTIME_ENGINE_ENGINE_WRITER_H_
#define RUNTIME_ENGINE_ENGINE_WRITER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compiler/ir/dtype.h"

namespace flashflow::engine {

struct EngineSection {
  std::string name;  // "ff.graph"
  std::string bytes;
};

// A weight as the file shall hold it.
struct WeightSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

// A weight as its checkpoint has it: dense, row-major, little-endian. `data` stays valid until the next call of the
// source.
struct SourceTensor {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

// Gives the tensor of that name; called once a weight, in the order of EngineContents::weights.
using WeightSource = std::function<absl::StatusOr<SourceTensor>(std::string_view name)>;

// Told the bytes written and to be written in all; a status that is not OK ends the writing with it.
using WriteProgress = std::function<absl::Status(int64_t done_bytes, int64_t total_bytes)>;

struct EngineContents {
  std::string producer;  // "flashflow 0.1.0"
  std::vector<EngineSection> sections;
  std::vector<WeightSpec> weights;
};

// Writes to a temporary file beside `path`, syncs it, and renames it over `path`: whatever happens, `path` holds the
// old file or the whole new one, and a failure leaves no temporary file. Floats are converted to the dtype of the
// spec, rounded to nearest even; other dtypes must match. InvalidArgument names a weight whose source does not fit or
// a name that cannot be stored; ResourceExhausted where the disk is full; errors of source and progress pass through.
absl::Status WriteEngine(const std::string& path, const EngineContents& contents, const WeightSource& source,
                         const WriteProgress& progress = nullptr);

}  // namespace flashflow::engine

#endif  // RUNTIME_ENGINE_ENGINE_WRITER_H_
