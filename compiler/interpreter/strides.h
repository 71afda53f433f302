// Walking tensors by strides: what broadcasting, transposing, slicing and reducing share.
#ifndef COMPILER_INTERPRETER_STRIDES_H_
#define COMPILER_INTERPRETER_STRIDES_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "compiler/interpreter/tensor.h"

namespace flashflow::interpreter {

// Elements between neighbours along each axis of a dense row-major tensor.
inline Shape DenseStrides(const Shape& shape) {
  Shape strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= shape[i]) strides[i] = stride;
  return strides;
}

// The strides under which a tensor of `shape` appears broadcast to rank `rank`: 0 along repeated axes.
inline Shape BroadcastStrides(const Shape& shape, size_t rank) {
  Shape strides(rank, 0);
  const Shape dense = DenseStrides(shape);
  for (size_t i = 0; i < shape.size(); ++i) strides[rank - shape.size() + i] = shape[i] == 1 ? 0 : dense[i];
  return strides;
}

// Calls body(i, offsets) for each index of `shape` in row-major order, i counting from 0; offsets[k] is the index's
// place under strides[k].
template <size_t N, typename Body>
void Walk(const Shape& shape, const std::array<Shape, N>& strides, std::array<int64_t, N> offsets, const Body& body) {
  const int64_t count = NumElements(shape);
  const size_t rank = shape.size();
  Shape index(rank, 0);
  for (int64_t i = 0; i < count; ++i) {
    body(i, offsets);
    for (size_t axis = rank; axis-- > 0;) {
      for (size_t k = 0; k < N; ++k) offsets[k] += strides[k][axis];
      if (++index[axis] < shape[axis]) break;
      for (size_t k = 0; k < N; ++k) offsets[k] -= strides[k][axis] * shape[axis];
      index[axis] = 0;
    }
  }
}

}  // namespace flashflow::interpreter

#endif  // COMPILER_INTERPRETER_STRIDES_H_
