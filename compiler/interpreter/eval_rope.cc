#include <array>

#include "compiler/interpreter/eval.h"
#include "compiler/interpreter/strides.h"

namespace flashflow::interpreter {

void Rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, Tensor* y) {
  const size_t rank = y->shape.size();
  const int64_t dim = y->shape.back();
  const int64_t half = dim / 2;
  Walk<2>(y->shape, {BroadcastStrides(cos.shape, rank), BroadcastStrides(sin.shape, rank)}, {0, 0},
          [&](int64_t i, const std::array<int64_t, 2>& at) {
            const double partner = i % dim < half ? -x.floats[i + half] : x.floats[i - half];
            y->floats[i] = x.floats[i] * cos.floats[at[0]] + partner * sin.floats[at[1]];
          });
}

absl::Status EvalRope(Evaluation& e) {
  Rotate(e.input(0), e.input(1), e.input(2), &e.result());
  return absl::OkStatus();
}

}  // namespace flashflow::interpreter
