// The element types of every tensor in FlashFlow: IR values, plans, engine files and kernels.
#ifndef COMPILER_IR_DTYPE_H_
#define COMPILER_IR_DTYPE_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace flashflow {

enum class DType : uint8_t { kF32, kF16, kBF16, kI8, kI32, kI64, kBool };

inline constexpr DType kAllDTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8,
                                       DType::kI32, DType::kI64, DType::kBool};

constexpr std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kI8:
      return "i8";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kBool:
      return "bool";
  }
  return "?";
}

// Bytes of one element; bool takes one byte.
constexpr int64_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kI8:
    case DType::kBool:
      return 1;
  }
  return 0;
}

// Bytes of a key, or a value, of one head in the KV cache: codes of int8 have a scale of f32 besides.
constexpr int64_t KvHeadBytes(DType dtype, int64_t head_dim) {
  return dtype == DType::kI8 ? head_dim + 4 : head_dim * DTypeBytes(dtype);
}

// Elements of a row that share the scale and least value of 4-bit codes (the op quantize, docs/ir.md).
inline constexpr int64_t kCodeGroup = 32;

constexpr bool IsFloat(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }
constexpr bool IsInteger(DType dtype) { return dtype == DType::kI8 || dtype == DType::kI32 || dtype == DType::kI64; }

// The inverse of DTypeName; nullopt for any other text.
constexpr std::optional<DType> ParseDType(std::string_view name) {
  for (DType dtype : kAllDTypes) {
    if (DTypeName(dtype) == name) return dtype;
  }
  return std::nullopt;
}

}  // namespace flashflow

#endif  // COMPILER_IR_DTYPE_H_
