// Reads an engine file (.ff): memory-mapped, every size and checksum verified before use.
#ifndef RUNTIME_ENGINE_ENGINE_FILE_H_
#define RUNTIME_ENGINE_ENGINE_FILE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compiler/ir/dtype.h"

namespace flashflow::engine {

struct EngineWeight {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string_view bytes;  // row-major, at a page boundary, valid as long as its EngineFile
  uint32_t crc32c = 0;     // what the bytes should have; EngineFile::Verify compares
};

// An open file. Thread-safe: nothing changes after Open.
class EngineFile {
 public:
  // Maps the file and verifies the header, the padding and the sections; weights are verified by whoever reads them
  // (Verify). NotFound or another error of the file system; InvalidArgument for a file that is no engine;
  // Unimplemented for another version of the format; DataLoss naming the section or tensor that is damaged.
  static absl::StatusOr<std::unique_ptr<const EngineFile>> Open(const std::string& path);
  ~EngineFile();
  EngineFile(const EngineFile&) = delete;
  EngineFile& operator=(const EngineFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t size_bytes() const { return static_cast<int64_t>(file_.size()); }
  const std::string& producer() const { return producer_; }

  // The bytes of a section, nullopt if the file has none of that name.
  std::optional<std::string_view> section(std::string_view name) const;

  const absl::btree_map<std::string, EngineWeight>& weights() const { return weights_; }
  // NotFound names the weight and the file.
  absl::StatusOr<const EngineWeight*> weight(std::string_view name) const;

  // DataLoss naming the weight, unless its bytes are those that were written.
  absl::Status Verify(const EngineWeight& weight) const;

  // The error for a checksum computed elsewhere: what Verify returns when `crc32c` is not the weight's.
  absl::Status CheckCrc(const EngineWeight& weight, uint32_t crc32c) const;

  // Gives the memory that the weight's bytes were read into back to the system. They may still be read: then they come
  // from the file again. For what has been copied, or is read in few places.
  void Release(const EngineWeight& weight) const;

 private:
  EngineFile(std::string path, std::string_view file) : path_(std::move(path)), file_(file) {}
  absl::Status Read();

  std::string path_;
  std::string_view file_;  // the mapping
  std::string producer_;
  absl::btree_map<std::string, std::string_view> sections_;
  absl::btree_map<std::string, EngineWeight> weights_;
};

}  // namespace flashflow::engine

#endif  // RUNTIME_ENGINE_ENGINE_FILE_H_
