// Attributes: the named compile-time constants of an operation, shared by IR nodes and plan steps.
#ifndef COMPILER_IR_ATTR_H_
#define COMPILER_IR_ATTR_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "compiler/ir/dim_expr.h"
#include "compiler/ir/dtype.h"

namespace flashflow {

// In the order of AttrKind. Ints and Dims are distinct: dims may be symbolic.
using Attr = std::variant<int64_t, double, bool, std::string, std::vector<int64_t>, DType, DimExpr, Dims>;
enum class AttrKind : uint8_t { kInt, kFloat, kBool, kString, kInts, kDType, kDim, kDims };
std::string_view AttrKindName(AttrKind kind);
inline AttrKind KindOf(const Attr& attr) { return static_cast<AttrKind>(attr.index()); }

using AttrMap = absl::btree_map<std::string, Attr>;

// Equal in kind and value; floats by their bits, except that every NaN equals every other (-0.0 and 0.0 differ).
bool SameAttr(const Attr& a, const Attr& b);
bool SameAttrs(const AttrMap& a, const AttrMap& b);

// Text as in .ffir: 3, 1e-05 (always with '.', 'e', inf or nan), true, "text", [1, 2], f32, dim(B*S), dims(B, S, 64).
std::string AttrToString(const Attr& attr);
std::string QuoteString(std::string_view text);  // "text" with C escapes; bytes from 0x80 on stay as they are

// Typed access for a map that a verifier has passed or that came from outside: NotFound names the missing key,
// InvalidArgument names the key, the kind wanted and the kind found.
template <typename T>
absl::StatusOr<T> GetAttr(const AttrMap& attrs, std::string_view key);

}  // namespace flashflow

#endif  // COMPILER_IR_ATTR_H_
