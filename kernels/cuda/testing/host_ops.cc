#include "kernels/cuda/testing/host_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/testing/host_memory.h"

namespace flashflow::cuda::host {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool IsFloat(Dtype dtype) { return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBf16; }

double LoadFloat(Dtype dtype, const void* x, int64_t i) { return testing::Load(dtype, x, i); }

void SaveFloat(Dtype dtype, void* y, int64_t i, double value) {
  testing::Store(dtype, y, i, static_cast<float>(value));
}

int64_t LoadInteger(Dtype dtype, const void* x, int64_t i) {
  switch (dtype) {
    case Dtype::kS8:
      return static_cast<const int8_t*>(x)[i];
    case Dtype::kS32:
      return static_cast<const int32_t*>(x)[i];
    case Dtype::kBool:
      return static_cast<const uint8_t*>(x)[i] != 0;
    default:
      return static_cast<const int64_t*>(x)[i];
  }
}

// The lowest bits of the value; of a bool whether there are any.
void SaveInteger(Dtype dtype, void* y, int64_t i, int64_t value) {
  if (dtype == Dtype::kBool) value = value != 0;
  const int bytes = ElementBytes(dtype);
  std::memcpy(static_cast<char*>(y) + i * bytes, &value, static_cast<size_t>(bytes));
}

void CopyElement(const void* from, int64_t from_index, void* to, int64_t to_index, int bytes) {
  std::memcpy(static_cast<char*>(to) + to_index * bytes, static_cast<const char*>(from) + from_index * bytes,
              static_cast<size_t>(bytes));
}

int64_t Count(const Shape& shape) {
  int64_t count = 1;
  for (int i = 0; i < shape.rank; ++i) count *= shape.dims[i];
  return count;
}

// Where element number `element` of the shape lies in an operand.
int64_t Offset(const Shape& shape, const Strides& strides, int64_t element) {
  int64_t offset = 0;
  for (int i = shape.rank - 1; i >= 0; --i) {
    offset += element % shape.dims[i] * strides.steps[i];
    element /= shape.dims[i];
  }
  return offset;
}

double Sigmoid(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }

double Apply(UnaryOp op, double x) {
  switch (op) {
    case UnaryOp::kNeg:
      return -x;
    case UnaryOp::kAbs:
      return std::fabs(x);
    case UnaryOp::kExp:
      return std::exp(x);
    case UnaryOp::kSqrt:
      return std::sqrt(x);
    case UnaryOp::kRsqrt:
      return 1 / std::sqrt(x);
    case UnaryOp::kReciprocal:
      return 1 / x;
    case UnaryOp::kTanh:
      return std::tanh(x);
    case UnaryOp::kErf:
      return std::erf(x);
    case UnaryOp::kSigmoid:
      return Sigmoid(x);
    case UnaryOp::kSin:
      return std::sin(x);
    case UnaryOp::kCos:
      return std::cos(x);
    case UnaryOp::kRelu:
      return x < 0 ? 0 : x;
    case UnaryOp::kGelu:
      return x * (0.5 * std::erfc(-x * 0.70710678118654752));
    case UnaryOp::kGeluTanh:
      return x * Sigmoid(2 * 0.79788456080286536 * (x + 0.044715 * x * x * x));
    case UnaryOp::kSilu:
      return x * Sigmoid(x);
    case UnaryOp::kNot:
      break;
  }
  return x;
}

template <class T>
bool Holds(BinaryOp op, T a, T b) {
  switch (op) {
    case BinaryOp::kEq:
      return a == b;
    case BinaryOp::kNe:
      return a != b;
    case BinaryOp::kLt:
      return a < b;
    case BinaryOp::kLe:
      return a <= b;
    case BinaryOp::kGt:
      return a > b;
    case BinaryOp::kGe:
      return a >= b;
    case BinaryOp::kAnd:
      return a != 0 && b != 0;
    default:
      return a != 0 || b != 0;
  }
}

double Compute(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return a + b;
    case BinaryOp::kSub:
      return a - b;
    case BinaryOp::kMul:
      return a * b;
    case BinaryOp::kDiv:
      return a / b;
    case BinaryOp::kMaximum:
      return a > b || std::isnan(a) ? a : b;
    case BinaryOp::kMinimum:
      return a < b || std::isnan(a) ? a : b;
    default:
      return std::pow(a, b);
  }
}

int64_t ComputeInteger(BinaryOp op, int64_t a, int64_t b) {
  const auto p = static_cast<uint64_t>(a), q = static_cast<uint64_t>(b);
  switch (op) {
    case BinaryOp::kAdd:
      return static_cast<int64_t>(p + q);
    case BinaryOp::kSub:
      return static_cast<int64_t>(p - q);
    case BinaryOp::kMaximum:
      return std::max(a, b);
    case BinaryOp::kMinimum:
      return std::min(a, b);
    default:
      return static_cast<int64_t>(p * q);
  }
}

// Toward zero, saturating at the ends of a type of `bytes` bytes.
int64_t Truncated(double value, int bytes) {
  if (std::isnan(value)) return 0;
  const double end = std::ldexp(1.0, 8 * bytes - 1);
  const int64_t highest = std::numeric_limits<int64_t>::max() >> (64 - 8 * bytes);
  if (value >= end) return highest;
  if (value < -end) return -highest - 1;
  return static_cast<int64_t>(value);
}

// An integer to the nearest float of a type. Rounded to odd at 24 bits, it rounds to fewer as it would itself.
void SaveFromInteger(Dtype dtype, void* y, int64_t i, int64_t value) {
  if (dtype == Dtype::kF32) {
    static_cast<float*>(y)[i] = static_cast<float>(value);
    return;
  }
  uint64_t magnitude = value < 0 ? -static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  int dropped = 0;
  bool rest = false;
  while (magnitude >> 24 != 0) {
    rest = rest || (magnitude & 1) != 0;
    magnitude >>= 1;
    ++dropped;
  }
  const double odd = std::ldexp(static_cast<double>(magnitude | (rest ? 1 : 0)), dropped);
  SaveFloat(dtype, y, i, value < 0 ? -odd : odd);
}

}  // namespace

cudaError_t Unary(const UnaryArgs& args, cudaStream_t) {
  for (int64_t i = 0; i < args.count; ++i) {
    if (args.op == UnaryOp::kNot) {
      SaveInteger(args.dtype, args.y, i, LoadInteger(args.dtype, args.x, i) == 0);
    } else {
      SaveFloat(args.dtype, args.y, i, Apply(args.op, LoadFloat(args.dtype, args.x, i)));
    }
  }
  return cudaSuccess;
}

cudaError_t Binary(const BinaryArgs& args, cudaStream_t) {
  const bool gives_bool = args.op >= BinaryOp::kEq;
  for (int64_t i = 0; i < Count(args.shape); ++i) {
    const int64_t a_at = Offset(args.shape, args.a_strides, i), b_at = Offset(args.shape, args.b_strides, i);
    if (IsFloat(args.dtype)) {
      const double a = LoadFloat(args.dtype, args.a, a_at), b = LoadFloat(args.dtype, args.b, b_at);
      if (gives_bool) {
        SaveInteger(Dtype::kBool, args.y, i, Holds(args.op, a, b));
      } else {
        SaveFloat(args.dtype, args.y, i, Compute(args.op, a, b));
      }
    } else {
      const int64_t a = LoadInteger(args.dtype, args.a, a_at), b = LoadInteger(args.dtype, args.b, b_at);
      SaveInteger(gives_bool ? Dtype::kBool : args.dtype, args.y, i,
                  gives_bool ? Holds(args.op, a, b) : ComputeInteger(args.op, a, b));
    }
  }
  return cudaSuccess;
}

cudaError_t Cast(const CastArgs& args, cudaStream_t) {
  for (int64_t i = 0; i < args.count; ++i) {
    if (IsFloat(args.from)) {
      const double value = LoadFloat(args.from, args.x, i);
      if (IsFloat(args.to)) {
        SaveFloat(args.to, args.y, i, value);
      } else {
        SaveInteger(args.to, args.y, i, args.to == Dtype::kBool ? value != 0 : Truncated(value, ElementBytes(args.to)));
      }
    } else {
      const int64_t value = LoadInteger(args.from, args.x, i);
      if (IsFloat(args.to)) {
        SaveFromInteger(args.to, args.y, i, value);
      } else {
        SaveInteger(args.to, args.y, i, value);
      }
    }
  }
  return cudaSuccess;
}

cudaError_t Fill(const FillArgs& args, cudaStream_t) {
  for (int64_t i = 0; i < args.count; ++i) CopyElement(&args.value, 0, args.y, i, args.element_bytes);
  return cudaSuccess;
}

cudaError_t Iota(const IotaArgs& args, cudaStream_t) {
  for (int64_t i = 0; i < args.outer * args.axis * args.inner; ++i) {
    const int64_t value = i / args.inner % args.axis;
    if (args.dtype == Dtype::kF32) {
      SaveFromInteger(args.dtype, args.y, i, value);
    } else {
      SaveInteger(args.dtype, args.y, i, value);
    }
  }
  return cudaSuccess;
}

cudaError_t StridedCopy(const CopyArgs& args, cudaStream_t) {
  for (int64_t i = 0; i < Count(args.shape); ++i) {
    CopyElement(args.from, Offset(args.shape, args.from_strides, i), args.to, Offset(args.shape, args.to_strides, i),
                args.element_bytes);
  }
  return cudaSuccess;
}

cudaError_t Select(const SelectArgs& args, cudaStream_t) {
  for (int64_t i = 0; i < Count(args.shape); ++i) {
    const bool first = LoadInteger(Dtype::kBool, args.condition, Offset(args.shape, args.condition_strides, i)) != 0;
    CopyElement(first ? args.a : args.b, Offset(args.shape, first ? args.a_strides : args.b_strides, i), args.y, i,
                args.element_bytes);
  }
  return cudaSuccess;
}

cudaError_t Index(const IndexArgs& args, cudaStream_t) {
  for (int64_t i = 0; i < Count(args.shape); ++i) {
    int64_t run = 0;
    bool inside = true;
    for (int axis = 0; axis < args.axes; ++axis) {
      const AxisIndex& index = args.indices[axis];
      const int64_t value =
          LoadInteger(index.wide ? Dtype::kS64 : Dtype::kS32, index.data, Offset(args.shape, index.strides, i));
      inside = inside && value >= -index.size && value < index.size;
      run = inside ? run * index.size + (value < 0 ? value + index.size : value) : 0;
    }
    char* const to = static_cast<char*>(args.y) + i * args.run_bytes;
    const auto bytes = static_cast<size_t>(args.run_bytes);
    if (inside) {
      std::memcpy(to, static_cast<const char*>(args.x) + run * args.run_bytes, bytes);
    } else {
      std::memset(to, args.missing, bytes);
    }
  }
  return cudaSuccess;
}

cudaError_t Cumsum(const CumsumArgs& args, cudaStream_t) {
  for (int64_t run = 0; run < args.outer * args.inner; ++run) {
    int64_t at = run / args.inner * args.axis * args.inner + run % args.inner;
    float sum = 0;  // each of its roundings is part of the contract
    int64_t integer = 0;
    for (int64_t i = 0; i < args.axis; ++i, at += args.inner) {
      if (args.dtype == Dtype::kF32) {
        const auto x = static_cast<float>(LoadFloat(args.dtype, args.x, at));
        sum = i == 0 ? x : sum + x;
        SaveFloat(args.dtype, args.y, at, sum);
      } else {
        integer = ComputeInteger(BinaryOp::kAdd, integer, LoadInteger(args.dtype, args.x, at));
        SaveInteger(args.dtype, args.y, at, integer);
      }
    }
  }
  return cudaSuccess;
}

cudaError_t Reduce(const ReduceArgs& args, cudaStream_t) {
  const int64_t elements = Count(args.reduced);
  for (int64_t result = 0; result < Count(args.kept); ++result) {
    const int64_t first = Offset(args.kept, args.kept_strides, result);
    double value = args.op == ReduceOp::kMax ? -kInfinity : 0;
    for (int64_t i = 0; i < elements; ++i) {
      const double x = LoadFloat(args.dtype, args.x, first + Offset(args.reduced, args.reduced_strides, i));
      value = Compute(args.op == ReduceOp::kMax ? BinaryOp::kMaximum : BinaryOp::kAdd, value, x);
    }
    if (args.op == ReduceOp::kMean) value /= static_cast<double>(elements);
    SaveFloat(args.dtype, args.y, result, value);
  }
  return cudaSuccess;
}

cudaError_t SoftmaxColumns(const SoftmaxColumnsArgs& args, cudaStream_t) {
  for (int64_t column = 0; column < args.outer * args.inner; ++column) {
    const int64_t first = column / args.inner * args.axis * args.inner + column % args.inner;
    const auto x = [&](int64_t i) { return LoadFloat(args.dtype, args.x, first + i * args.inner); };
    double most = -kInfinity, sum = 0;
    for (int64_t i = 0; i < args.axis; ++i) most = std::max(most, x(i));
    for (int64_t i = 0; i < args.axis; ++i) sum += std::exp(x(i) - most);
    for (int64_t i = 0; i < args.axis; ++i) {
      SaveFloat(args.dtype, args.y, first + i * args.inner, std::exp(x(i) - most) / sum);
    }
  }
  return cudaSuccess;
}

cudaError_t MatMul(const MatMulArgs& args, cudaStream_t) {
  const int64_t m = args.m, n = args.n, k = args.k;
  for (int64_t matrix = 0; matrix < Count(args.batch); ++matrix) {
    const int64_t a = Offset(args.batch, args.a_strides, matrix), b = Offset(args.batch, args.b_strides, matrix);
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t column = 0; column < n; ++column) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i) {
          sum += LoadFloat(args.dtype, args.a, a + row * k + i) *
                 LoadFloat(args.dtype, args.b, b + i * args.b_k_stride + column * args.b_n_stride);
        }
        if (args.bias != nullptr) sum += args.bias[column];
        SaveFloat(args.dtype, args.y, (matrix * m + row) * n + column, sum);
      }
    }
  }
  return cudaSuccess;
}

cudaError_t MaskedAttention(const MaskedAttentionArgs& args, cudaStream_t) {
  const int64_t queries = int64_t{args.batch} * args.heads * args.queries;
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t query = i % args.queries, head = i / args.queries % args.heads, row = i / args.queries / args.heads;
    const int64_t kv_head = row * args.kv_heads + head / (args.heads / args.kv_heads);
    const int64_t last = query + args.keys - args.queries;
    std::vector<double> scores(static_cast<size_t>(args.keys), -kInfinity);
    double most = -kInfinity;
    for (int64_t key = 0; key < args.keys; ++key) {
      if ((args.causal && key > last) || (args.window > 0 && key <= last - args.window)) continue;
      double added = 0;
      if (args.mask != nullptr) {
        const int64_t at = row * args.mask_strides[0] + head * args.mask_strides[1] + query * args.mask_strides[2] +
                           key * args.mask_strides[3];
        added = IsFloat(args.mask_dtype)                           ? LoadFloat(args.mask_dtype, args.mask, at)
                : LoadInteger(args.mask_dtype, args.mask, at) != 0 ? 0
                                                                   : -kInfinity;
      }
      if (added == -kInfinity) continue;
      double score = 0;
      for (int64_t c = 0; c < args.head_dim; ++c) {
        score += LoadFloat(args.dtype, args.q, i * args.head_dim + c) *
                 LoadFloat(args.dtype, args.k, (kv_head * args.keys + key) * args.head_dim + c);
      }
      scores[static_cast<size_t>(key)] = score * args.scale + added;
      most = std::max(most, scores[static_cast<size_t>(key)]);
    }
    for (int64_t c = 0; c < args.value_dim; ++c) {
      double sum = 0, value = 0;
      for (int64_t key = 0; key < args.keys; ++key) {
        const double score = scores[static_cast<size_t>(key)];
        if (score == -kInfinity) continue;
        const double weight = std::exp(score - most);
        sum += weight;
        value += weight * LoadFloat(args.dtype, args.v, (kv_head * args.keys + key) * args.value_dim + c);
      }
      SaveFloat(args.dtype, args.y, i * args.value_dim + c, sum == 0 ? 0 : value / sum);
    }
  }
  return cudaSuccess;
}

cudaError_t Rope(const RopeArgs& args, cudaStream_t) {
  const int64_t half = args.channels / 2;
  for (int64_t row = 0; row < Count(args.rows); ++row) {
    const int64_t cos_at = Offset(args.rows, args.cos_strides, row), sin_at = Offset(args.rows, args.sin_strides, row);
    for (int64_t i = 0; i < half; ++i) {
      const int64_t at = row * args.channels + i;
      const double first = LoadFloat(args.dtype, args.x, at), second = LoadFloat(args.dtype, args.x, at + half);
      const auto cos = [&](int64_t c) { return LoadFloat(args.angle_dtype, args.cos, cos_at + c); };
      const auto sin = [&](int64_t c) { return LoadFloat(args.angle_dtype, args.sin, sin_at + c); };
      SaveFloat(args.dtype, args.y, at, first * cos(i) - second * sin(i));
      SaveFloat(args.dtype, args.y, at + half, second * cos(i + half) + first * sin(i + half));
    }
  }
  return cudaSuccess;
}

cudaError_t NormPlain(const NormArgs& args, cudaStream_t) {
  const int64_t columns = args.columns;
  std::vector<double> h(static_cast<size_t>(columns));
  for (int64_t row = 0; row < args.rows; ++row) {
    const int64_t first = row * args.ld;
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < columns; ++i) {
      double& value = h[static_cast<size_t>(i)];
      value = LoadFloat(args.dtype, args.x, first + i);
      if (args.residual != nullptr) {
        alignas(4) char rounded[4];
        SaveFloat(args.dtype, rounded, 0, value + LoadFloat(args.dtype, args.residual, first + i));
        value = LoadFloat(args.dtype, rounded, 0);
      }
      mean += value / static_cast<double>(columns);
    }
    if (args.rms) mean = 0;
    for (double value : h) variance += (value - mean) * (value - mean) / static_cast<double>(columns);
    for (int64_t i = 0; i < columns; ++i) {
      const double value = h[static_cast<size_t>(i)];
      double y = (value - mean) / std::sqrt(variance + static_cast<double>(args.epsilon));
      if (args.gamma != nullptr) y *= LoadFloat(Dtype::kF32, args.gamma, i);
      if (args.beta != nullptr) y += LoadFloat(Dtype::kF32, args.beta, i);
      if (args.sum != nullptr) SaveFloat(args.dtype, args.sum, first + i, value);
      SaveFloat(args.dtype, args.y, first + i, y);
    }
  }
  return cudaSuccess;
}

void SetGraphOps(Api* api) {
  api->unary = Unary;
  api->binary = Binary;
  api->cast = Cast;
  api->fill = Fill;
  api->iota = Iota;
  api->strided_copy = StridedCopy;
  api->select = Select;
  api->index = Index;
  api->cumsum = Cumsum;
  api->reduce = Reduce;
  api->softmax_columns = SoftmaxColumns;
  api->matmul = MatMul;
  api->masked_attention = MaskedAttention;
  api->rope = Rope;
}

}  // namespace flashflow::cuda::host
