#include "compiler/ir/type.h"

#include "absl/strings/str_cat.h"

namespace flashflow::ir {

std::string Type::ToString() const {
  if (is_absent()) return "_";
  if (is_tensor()) return absl::StrCat(DTypeName(tensor().dtype), DimsToString(tensor().shape));
  const CacheType& type = cache();
  return absl::StrCat("cache[", type.layers, ", ", type.kv_heads, ", ", type.head_dim, ", ", DTypeName(type.dtype),
                      "]");
}

}  // namespace flashflow::ir
