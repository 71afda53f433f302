// The header of a safetensors file: 8 bytes of little-endian length, then JSON that names every tensor.
#ifndef RUNTIME_ENGINE_SAFETENSORS_HEADER_H_
#define RUNTIME_ENGINE_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "compiler/ir/dtype.h"

namespace flashflow::engine {

inline constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
inline constexpr int kMaxTensorRank = 8;

struct StoredTensor {
  std::string name;
  std::optional<DType> dtype;  // nullopt: U8, bytes that are no number
  std::vector<int64_t> shape;
  int64_t offset = 0;  // from the start of the file
  int64_t bytes = 0;
};

struct SafetensorsHeader {
  absl::btree_map<std::string, std::string> metadata;
  std::vector<StoredTensor> tensors;  // by offset
};

// Reads the header at the start of `file`, the bytes of the whole file, and holds it to the format: at most
// kMaxHeaderBytes, no name twice, known dtypes, sizes that are the product of their shape, tensors that fill the rest
// of the file without a gap or an overlap. DataLoss says what is wrong with which tensor.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view file);

// "F32" for kF32 and so on; "U8" for nullopt.
std::string_view StoredDTypeName(std::optional<DType> dtype);

// A name out of a file, fit for a message: quoted, escaped, shortened.
std::string QuotedName(std::string_view name);

}  // namespace flashflow::engine

#endif  // RUNTIME_ENGINE_SAFETENSORS_HEADER_H_
