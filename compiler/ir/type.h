// The types of IR values: tensors, and the KV cache as a resource.
#ifndef COMPILER_IR_TYPE_H_
#define COMPILER_IR_TYPE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "compiler/ir/dim_expr.h"
#include "compiler/ir/dtype.h"

namespace flashflow::ir {

inline constexpr int kMaxRank = 6;  // as kernels take

struct TensorType {
  DType dtype = DType::kF32;
  Dims shape;  // rank is static, dims may be symbolic
  friend bool operator==(const TensorType&, const TensorType&) = default;
};

// The paged KV cache of a whole model: a linear resource. Page size and memory layout are the plan's, not the type's.
struct CacheType {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  DType dtype = DType::kF32;
  friend bool operator==(const CacheType&, const CacheType&) = default;
};

class Type {
 public:
  Type() = default;                                      // absent: an optional operand that is not given
  Type(TensorType tensor) : repr_(std::move(tensor)) {}  // NOLINT(google-explicit-constructor)
  Type(CacheType cache) : repr_(cache) {}                // NOLINT(google-explicit-constructor)
  bool is_absent() const { return std::holds_alternative<std::monostate>(repr_); }
  bool is_tensor() const { return std::holds_alternative<TensorType>(repr_); }
  bool is_cache() const { return std::holds_alternative<CacheType>(repr_); }
  const TensorType& tensor() const { return std::get<TensorType>(repr_); }  // precondition: is_tensor()
  const CacheType& cache() const { return std::get<CacheType>(repr_); }     // precondition: is_cache()
  std::string ToString() const;  // "f32[B, S, 576]", "f32[]", "cache[30, 3, 64, f32]", "_" if absent
  friend bool operator==(const Type&, const Type&) = default;

 private:
  std::variant<std::monostate, TensorType, CacheType> repr_;
};

}  // namespace flashflow::ir

#endif  // COMPILER_IR_TYPE_H_
