// The values that the interpreter computes with: host tensors and a host KV cache.
#ifndef COMPILER_INTERPRETER_TENSOR_H_
#define COMPILER_INTERPRETER_TENSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "compiler/ir/dtype.h"
#include "compiler/ir/type.h"

namespace flashflow::interpreter {

using Shape = std::vector<int64_t>;

int64_t NumElements(const Shape& shape);
std::string ShapeToString(const Shape& shape);  // "[2, 576]"

// Dense and row-major. A float tensor keeps doubles whatever its dtype says, so that the wide mode can leave them
// unrounded; the others keep their exact values as int64, bools as 0 and 1.
struct Tensor {
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<double> floats;  // filled if IsFloat(dtype)
  std::vector<int64_t> ints;   // filled otherwise

  static Tensor Zeros(DType dtype, Shape shape);
  static Tensor Floats(Shape shape, std::vector<double> values, DType dtype = DType::kF32);
  static Tensor Ints(Shape shape, std::vector<int64_t> values, DType dtype = DType::kI32);
  int64_t NumElements() const { return interpreter::NumElements(shape); }
};

// Brings each element to the nearest value of the tensor's dtype: floats rounded to nearest even, integers cut to their
// low bits, bools to 0 or 1.
void RoundToDType(Tensor* tensor);

// The paged KV cache: [layers][num_pages][2 (k, v)][kv_heads][page_size][head_dim]. A slot that was never written holds
// NaN, so that whatever reads it shows.
struct Cache {
  ir::CacheType type;
  int64_t num_pages = 0;
  int64_t page_size = 0;
  std::vector<double> data;

  static Cache Empty(ir::CacheType type, int64_t num_pages, int64_t page_size);
  // The head_dim elements of one slot; k_or_v is 0 or 1.
  double* Slot(int64_t layer, int64_t page, int64_t k_or_v, int64_t head, int64_t offset);
  const double* Slot(int64_t layer, int64_t page, int64_t k_or_v, int64_t head, int64_t offset) const;
};

}  // namespace flashflow::interpreter

#endif  // COMPILER_INTERPRETER_TENSOR_H_
