#include "runtime/engine/engine_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "absl/cleanup/cleanup.h"
#include "absl/crc/crc32c.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "compiler/plan/sha256.h"
#include "runtime/engine/engine_format.h"
#include "runtime/engine/safetensors_header.h"
#include "runtime/engine/strict_sax.h"

namespace flashflow::engine {
namespace {

using TextMap = absl::btree_map<std::string, std::string>;

// {"name": "text"} or, with `inner`, {"name": {inner: "text"}}; no name twice, nothing else.
class TextMapSax final : public StrictSax {
 public:
  TextMapSax(std::string_view inner, TextMap& map) : inner_(inner), map_(map) {}

  bool start_object(std::size_t) override { return ++depth_ <= (inner_.empty() ? 1 : 2) || Unexpected("an object"); }
  bool key(string_t& text) override {
    if (depth_ == 2) return (text == inner_ && !has_value_) || Unexpected("a key");
    name_ = text;
    has_value_ = false;
    return !map_.contains(text) || Refuse(absl::StrCat("has ", QuotedName(text), " twice"));
  }
  bool string(string_t& text) override {
    if (depth_ != (inner_.empty() ? 1 : 2)) return Unexpected("a string");
    has_value_ = true;
    map_.emplace(name_, text);
    return true;
  }
  bool end_object() override {
    --depth_;
    return depth_ != 1 || has_value_ || Refuse(absl::StrCat("lacks a value of ", QuotedName(name_)));
  }

 private:
  std::string_view inner_;
  TextMap& map_;
  int depth_ = 0;
  bool has_value_ = false;
  std::string name_;
};

absl::StatusOr<TextMap> ParseTextMap(std::string_view text, std::string_view inner, std::string_view what) {
  TextMap map;
  TextMapSax sax(inner, map);
  if (!sax.Parse(text)) return absl::DataLossError(absl::StrCat("the table of ", what, " ", sax.error()));
  return map;
}

std::optional<uint32_t> ParseCrc(std::string_view digits) {
  uint32_t value = 0;
  if (digits.size() != kCrcDigits || !absl::SimpleHexAtoi(digits, &value)) return std::nullopt;
  return value;
}

// Precondition: the header has been parsed, so `file` holds it whole.
absl::Status CheckHeaderCrc(std::string_view file, int64_t data_start) {
  const std::string_view text = file.substr(8, static_cast<size_t>(data_start) - 8);
  const size_t field = text.find(kHeaderCrcField);
  if (field != std::string_view::npos) {
    const size_t digits = field + kHeaderCrcField.size();
    absl::crc32c_t crc = absl::ComputeCrc32c(text.substr(0, digits));
    crc = absl::ExtendCrc32c(crc, std::string(kCrcDigits, '0'));
    crc = absl::ExtendCrc32c(crc, text.substr(std::min(digits + kCrcDigits, text.size())));
    if (text.substr(digits, kCrcDigits) == absl::StrFormat("%08x", static_cast<uint32_t>(crc))) return absl::OkStatus();
  }
  return absl::DataLossError("the header is damaged: it does not match its checksum");
}

}  // namespace

absl::StatusOr<std::unique_ptr<const EngineFile>> EngineFile::Open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the engine file ", path));
  const absl::Cleanup close = [fd] { ::close(fd); };
  struct stat info;
  if (::fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read the engine file ", path));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, " is not a file"));
  if (info.st_size == 0) return absl::DataLossError(absl::StrCat("engine file ", path, ": the file is empty"));
  const auto size = static_cast<size_t>(info.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data == MAP_FAILED) return absl::ErrnoToStatus(errno, absl::StrCat("cannot map the engine file ", path));
  std::unique_ptr<EngineFile> file(new EngineFile(path, std::string_view(static_cast<const char*>(data), size)));
  if (absl::Status status = file->Read(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("engine file ", path, ": ", status.message()));
  }
  return file;
}

void EngineFile::Release(const EngineWeight& weight) const {
  static const auto kPage = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto data = reinterpret_cast<uintptr_t>(weight.bytes.data());
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage;
  const uintptr_t end = (data + weight.bytes.size()) / kPage * kPage;
  // Only advice: nothing is lost where it is not taken.
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

EngineFile::~EngineFile() { ::munmap(const_cast<char*>(file_.data()), file_.size()); }

absl::Status EngineFile::Read() {
  const absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(file_);
  if (!header.ok()) return header.status();
  const auto metadata = [&](std::string_view key) -> std::string_view {
    const auto it = header->metadata.find(key);
    return it == header->metadata.end() ? std::string_view() : it->second;
  };
  if (metadata("format") != kFormatName) {
    return absl::InvalidArgumentError(
        "this is a safetensors file but no FlashFlow engine; give the folder of the checkpoint, or build an engine of "
        "it first");
  }
  if (metadata("version") != kFormatVersion) {
    return absl::UnimplementedError(absl::StrCat("it has version ", QuotedName(metadata("version")),
                                                 " of the format and this FlashFlow reads ", kFormatVersion,
                                                 ": build the engine again"));
  }
  producer_ = metadata("producer");
  const int64_t data_start = header->tensors.empty() ? size_bytes() : header->tensors.front().offset;
  if (absl::Status status = CheckHeaderCrc(file_, data_start); !status.ok()) return status;
  const absl::StatusOr<TextMap> hashes = ParseTextMap(metadata("sections"), "sha256", "sections");
  if (!hashes.ok()) return hashes.status();
  const absl::StatusOr<TextMap> crcs = ParseTextMap(metadata("weights"), "", "weights");
  if (!crcs.ok()) return crcs.status();

  for (const StoredTensor& tensor : header->tensors) {
    const std::string_view bytes = file_.substr(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.bytes));
    const bool pad = absl::StartsWith(tensor.name, kPadPrefix);
    const bool section = absl::StartsWith(tensor.name, kSectionPrefix);
    const auto refuse = [&](const auto&... what) {
      return absl::DataLossError(absl::StrCat(section ? "section " : "weight ", QuotedName(tensor.name), " ", what...));
    };
    if (section == tensor.dtype.has_value()) return refuse("has the dtype ", StoredDTypeName(tensor.dtype));
    if (pad) {
      if (bytes.find_first_not_of('\0') != std::string_view::npos) return refuse("is damaged: it is not zero");
      continue;
    }
    if (tensor.offset % kTensorAlignment != 0) {
      return refuse("starts at byte ", tensor.offset, ", no multiple of ", kTensorAlignment);
    }
    if (section) {
      const auto hash = hashes->find(tensor.name);
      if (hash == hashes->end()) return refuse("is not in the table of sections");
      if (Sha256Hex(bytes) != hash->second) return refuse("is damaged: its sha256 is not the one recorded");
      sections_.emplace(tensor.name, bytes);
    } else {
      const auto crc_text = crcs->find(tensor.name);
      const std::optional<uint32_t> crc = crc_text == crcs->end() ? std::nullopt : ParseCrc(crc_text->second);
      if (!crc) return refuse("has no checksum in the table of weights");
      weights_.emplace(tensor.name, EngineWeight{tensor.name, *tensor.dtype, tensor.shape, bytes, *crc});
    }
  }
  for (const auto& [name, hash] : *hashes) {
    if (!sections_.contains(name))
      return absl::DataLossError(absl::StrCat("section ", QuotedName(name), " is missing"));
  }
  for (const auto& [name, crc] : *crcs) {
    if (!weights_.contains(name)) return absl::DataLossError(absl::StrCat("weight ", QuotedName(name), " is missing"));
  }
  return absl::OkStatus();
}

std::optional<std::string_view> EngineFile::section(std::string_view name) const {
  const auto it = sections_.find(name);
  if (it == sections_.end()) return std::nullopt;
  return it->second;
}

absl::StatusOr<const EngineWeight*> EngineFile::weight(std::string_view name) const {
  const auto it = weights_.find(name);
  if (it == weights_.end()) {
    return absl::NotFoundError(absl::StrCat("engine file ", path_, " has no weight ", QuotedName(name)));
  }
  return &it->second;
}

absl::Status EngineFile::Verify(const EngineWeight& weight) const {
  return CheckCrc(weight, static_cast<uint32_t>(absl::ComputeCrc32c(weight.bytes)));
}

absl::Status EngineFile::CheckCrc(const EngineWeight& weight, uint32_t crc32c) const {
  if (crc32c == weight.crc32c) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat(
      "engine file %s: weight %s is damaged: its crc32c is %08x, recorded is %08x; build or copy the engine again",
      path_, QuotedName(weight.name), crc32c, weight.crc32c));
}

}  // namespace flashflow::engine
