#include "compiler/ir/attr.h"

#include <bit>
#include <charconv>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace flashflow {
namespace {

template <typename T>
constexpr AttrKind KindFor() {
  if constexpr (std::is_same_v<T, int64_t>) return AttrKind::kInt;
  if constexpr (std::is_same_v<T, double>) return AttrKind::kFloat;
  if constexpr (std::is_same_v<T, bool>) return AttrKind::kBool;
  if constexpr (std::is_same_v<T, std::string>) return AttrKind::kString;
  if constexpr (std::is_same_v<T, std::vector<int64_t>>) return AttrKind::kInts;
  if constexpr (std::is_same_v<T, DType>) return AttrKind::kDType;
  if constexpr (std::is_same_v<T, DimExpr>) return AttrKind::kDim;
  if constexpr (std::is_same_v<T, Dims>) return AttrKind::kDims;
}

// The shortest text that reads back as the same double, marked as a float.
std::string FloatToString(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  std::string text(buffer, end);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

struct Writer {
  std::string operator()(int64_t value) const { return absl::StrCat(value); }
  std::string operator()(double value) const { return FloatToString(value); }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(const std::string& value) const { return QuoteString(value); }
  std::string operator()(const std::vector<int64_t>& value) const {
    return absl::StrCat("[", absl::StrJoin(value, ", "), "]");
  }
  std::string operator()(DType value) const { return std::string(DTypeName(value)); }
  std::string operator()(const DimExpr& value) const { return absl::StrCat("dim(", value.ToString(), ")"); }
  std::string operator()(const Dims& value) const {
    const std::string list = DimsToString(value);
    return absl::StrCat("dims(", list.substr(1, list.size() - 2), ")");
  }
};

}  // namespace

std::string_view AttrKindName(AttrKind kind) {
  switch (kind) {
    case AttrKind::kInt:
      return "int";
    case AttrKind::kFloat:
      return "float";
    case AttrKind::kBool:
      return "bool";
    case AttrKind::kString:
      return "string";
    case AttrKind::kInts:
      return "ints";
    case AttrKind::kDType:
      return "dtype";
    case AttrKind::kDim:
      return "dim";
    case AttrKind::kDims:
      return "dims";
  }
  return "?";
}

bool SameAttr(const Attr& a, const Attr& b) {
  const double* x = std::get_if<double>(&a);
  const double* y = std::get_if<double>(&b);
  if (x == nullptr || y == nullptr) return a == b;
  return (std::isnan(*x) && std::isnan(*y)) || std::bit_cast<uint64_t>(*x) == std::bit_cast<uint64_t>(*y);
}

bool SameAttrs(const AttrMap& a, const AttrMap& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.first == y.first && SameAttr(x.second, y.second); });
}

std::string QuoteString(std::string_view text) { return absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\""); }

std::string AttrToString(const Attr& attr) { return std::visit(Writer{}, attr); }

template <typename T>
absl::StatusOr<T> GetAttr(const AttrMap& attrs, std::string_view key) {
  auto it = attrs.find(key);
  if (it == attrs.end()) return absl::NotFoundError(absl::StrCat("attribute ", key, " is missing"));
  if (const T* value = std::get_if<T>(&it->second)) return *value;
  return absl::InvalidArgumentError(absl::StrCat("attribute ", key, ": expected ", AttrKindName(KindFor<T>()), ", got ",
                                                 AttrKindName(KindOf(it->second)), " ", AttrToString(it->second)));
}

template absl::StatusOr<int64_t> GetAttr(const AttrMap&, std::string_view);
template absl::StatusOr<double> GetAttr(const AttrMap&, std::string_view);
template absl::StatusOr<bool> GetAttr(const AttrMap&, std::string_view);
template absl::StatusOr<std::string> GetAttr(const AttrMap&, std::string_view);
template absl::StatusOr<std::vector<int64_t>> GetAttr(const AttrMap&, std::string_view);
template absl::StatusOr<DType> GetAttr(const AttrMap&, std::string_view);
template absl::StatusOr<DimExpr> GetAttr(const AttrMap&, std::string_view);
template absl::StatusOr<Dims> GetAttr(const AttrMap&, std::string_view);

}  // namespace flashflow
