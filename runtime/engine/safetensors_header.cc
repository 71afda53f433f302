#include "runtime/engine/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "runtime/engine/strict_sax.h"

namespace flashflow::engine {
namespace {

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

struct DTypeRow {
  std::optional<DType> dtype;
  std::string_view name;
};
constexpr std::array<DTypeRow, 8> kStoredDTypes = {{{std::nullopt, "U8"},
                                                    {DType::kF32, "F32"},
                                                    {DType::kF16, "F16"},
                                                    {DType::kBF16, "BF16"},
                                                    {DType::kI8, "I8"},
                                                    {DType::kI32, "I32"},
                                                    {DType::kI64, "I64"},
                                                    {DType::kBool, "BOOL"}}};

// {"name": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}, "__metadata__": {"key": "text"}}
class HeaderSax final : public StrictSax {
 public:
  explicit HeaderSax(SafetensorsHeader& header) : header_(header) {}

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kEntry:
        state_ = State::kTensor;
        tensor_ = StoredTensor();
        tensor_.name = name_;
        has_dtype_ = has_shape_ = has_offsets_ = false;
        return true;
      case State::kMetadataEntry:
        state_ = State::kMetadata;
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool key(string_t& text) override {
    switch (state_) {
      case State::kTop:
        if (!names_.insert(text).second) return Refuse(absl::StrCat("has ", QuotedName(text), " twice"));
        name_ = text;
        state_ = text == "__metadata__" ? State::kMetadataEntry : State::kEntry;
        return true;
      case State::kMetadata:
        if (header_.metadata.contains(text)) {
          return Refuse(absl::StrCat("has the metadata ", QuotedName(text), " twice"));
        }
        metadata_key_ = text;
        state_ = State::kMetadataValue;
        return true;
      case State::kTensor:
        if (text == "dtype" && !std::exchange(has_dtype_, true)) {
          state_ = State::kDType;
        } else if (text == "shape" && !std::exchange(has_shape_, true)) {
          state_ = State::kShape;
        } else if (text == "data_offsets" && !std::exchange(has_offsets_, true)) {
          state_ = State::kOffsets;
        } else {
          return Refuse(absl::StrCat(Where(), "has the key ", QuotedName(text), " unknown or twice"));
        }
        return true;
      default:
        return Unexpected("a key");
    }
  }

  bool string(string_t& text) override {
    if (state_ == State::kMetadataValue) {
      header_.metadata.emplace(metadata_key_, std::move(text));
      state_ = State::kMetadata;
      return true;
    }
    if (state_ != State::kDType) return Unexpected("a string");
    const auto* row = std::find_if(kStoredDTypes.begin(), kStoredDTypes.end(), [&](auto& r) { return r.name == text; });
    if (row == kStoredDTypes.end()) {
      return Refuse(absl::StrCat(Where(), "has the dtype ", QuotedName(text), ", which FlashFlow does not read"));
    }
    tensor_.dtype = row->dtype;
    state_ = State::kTensor;
    return true;
  }

  bool start_array(std::size_t) override {
    if (in_array_ || (state_ != State::kShape && state_ != State::kOffsets)) return Unexpected("an array");
    numbers_.clear();
    in_array_ = true;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return Unexpected("a number");
    if (value > static_cast<number_unsigned_t>(kMaxInt64))
      return Refuse(absl::StrCat(Where(), "has a number too large"));
    if (numbers_.size() == kMaxTensorRank) {
      return Refuse(absl::StrCat(Where(), "has more than ", kMaxTensorRank, " numbers in a list"));
    }
    numbers_.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool end_array() override {
    in_array_ = false;
    if (state_ == State::kShape) {
      tensor_.shape = numbers_;
    } else if (numbers_.size() == 2 && numbers_[0] <= numbers_[1]) {
      tensor_.offset = numbers_[0];
      tensor_.bytes = numbers_[1] - numbers_[0];
    } else {
      return Refuse(absl::StrCat(Where(), "has data_offsets that are no [begin, end]"));
    }
    state_ = State::kTensor;
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor) {
      if (!has_dtype_ || !has_shape_ || !has_offsets_) {
        return Refuse(absl::StrCat(Where(), "lacks one of dtype, shape, data_offsets"));
      }
      header_.tensors.push_back(std::move(tensor_));
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

 protected:
  std::string Where() const override {
    return state_ == State::kStart || state_ == State::kTop ? "" : absl::StrCat("tensor ", QuotedName(name_), " ");
  }

 private:
  enum class State {
    kStart,
    kTop,
    kEntry,
    kTensor,
    kDType,
    kShape,
    kOffsets,
    kMetadataEntry,
    kMetadata,
    kMetadataValue,
    kEnd
  };

  SafetensorsHeader& header_;
  State state_ = State::kStart;
  absl::flat_hash_set<std::string> names_;
  std::string name_, metadata_key_;
  StoredTensor tensor_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false, in_array_ = false;
  std::vector<int64_t> numbers_;
};

std::optional<int64_t> BytesOf(const StoredTensor& tensor) {
  int64_t bytes = tensor.dtype ? DTypeBytes(*tensor.dtype) : 1;
  for (int64_t dim : tensor.shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) return std::nullopt;
  }
  return bytes;
}

}  // namespace

std::string_view StoredDTypeName(std::optional<DType> dtype) {
  for (const DTypeRow& row : kStoredDTypes) {
    if (row.dtype == dtype) return row.name;
  }
  return "?";
}

std::string QuotedName(std::string_view name) {
  constexpr size_t kShown = 120;
  const std::string_view shown = name.substr(0, kShown);
  return absl::StrCat("\"", absl::Utf8SafeCEscape(shown), shown.size() < name.size() ? "..." : "", "\"");
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view file) {
  constexpr size_t kPrefix = 8;
  if (file.size() < kPrefix) return absl::DataLossError(absl::StrCat("the file has only ", file.size(), " bytes"));
  uint64_t length = 0;
  for (size_t i = 0; i < kPrefix; ++i) length |= uint64_t{static_cast<uint8_t>(file[i])} << (8 * i);
  if (length > kMaxHeaderBytes) {
    return absl::DataLossError(absl::StrCat("its first 8 bytes give a header of ", length,
                                            " bytes, more than safetensors allows: it is no safetensors file"));
  }
  if (length > file.size() - kPrefix) {
    return absl::DataLossError(absl::StrCat("the header should have ", length, " bytes but the file ends after ",
                                            file.size() - kPrefix, ": it is truncated"));
  }
  const std::string_view text = file.substr(kPrefix, length);
  if (text.empty() || text.front() != '{') return absl::DataLossError("the header does not start with '{'");

  SafetensorsHeader header;
  HeaderSax sax(header);
  if (!sax.Parse(text)) return absl::DataLossError(absl::StrCat("the header ", sax.error()));

  std::sort(header.tensors.begin(), header.tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  const auto data_start = static_cast<int64_t>(kPrefix + length);
  const int64_t data_bytes = static_cast<int64_t>(file.size()) - data_start;
  int64_t end = 0;
  for (StoredTensor& tensor : header.tensors) {
    const auto refuse = [&](const auto&... what) {
      return absl::DataLossError(absl::StrCat("tensor ", QuotedName(tensor.name), " ", what...));
    };
    const std::optional<int64_t> bytes = BytesOf(tensor);
    if (!bytes) return refuse("has a shape whose size overflows");
    if (*bytes != tensor.bytes) {
      return refuse("takes ", tensor.bytes, " bytes, but its dtype and shape make ", *bytes);
    }
    if (tensor.offset != end) {
      return refuse("starts at ", tensor.offset, " where the one before it ends at ", end,
                    ": there is a gap or an overlap");
    }
    if (tensor.bytes > data_bytes - end) {
      return refuse("takes ", tensor.bytes, " bytes from ", end, " but the data of the file has ", data_bytes,
                    ": it is truncated");
    }
    end += tensor.bytes;
    tensor.offset += data_start;
  }
  if (end != data_bytes) {
    return absl::DataLossError(absl::StrCat("the tensors end at ", end, " but the data of the file has ", data_bytes,
                                            " bytes: something was appended, or the header is damaged"));
  }
  return header;
}

}  // namespace flashflow::engine
