// Reductions, products, attention and rotations of rectangular graphs against the host's f64.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cuda/testing/element_types.cuh"
#include "kernels/cuda/testing/host_mirror.cuh"
#include "kernels/cuda/testing/host_ops.h"
#include "kernels/cuda/testing/report.h"

namespace flashflow::cuda::testing {
namespace {

constexpr double kEps = 0x1p-24;
constexpr float kInf = std::numeric_limits<float>::infinity();

void Expect(cudaError_t error, const std::string& where, Report& report) {
  report.Expect(error == cudaSuccess, cudaGetErrorString(error), where.c_str());
}

std::string TypeName(size_t bytes, const char* family) {
  return std::string(family) + " of " + std::to_string(bytes) + " bytes";
}

// A sum of `terms` terms, of magnitude `magnitude` in all, in f32 in any order; then the other side of a tie.
template <class T>
double SumTolerance(double terms, double magnitude, double result) {
  return 2 * (terms + 4) * kEps * magnitude + (sizeof(T) < 4 ? Ulp<T>(result) : 0.0) + 0x1p-140;
}

template <class T>
void RunReduce(ReduceOp op, Report& report) {
  struct {
    const char* name;
    Shape kept, reduced;
    Strides kept_strides, reduced_strides;
  } cases[] = {
      {"last axis", {2, {5, 7}}, {1, {33}}, {{231, 33}}, {{1}}},
      {"first axis", {2, {7, 33}}, {1, {5}}, {{33, 1}}, {{231}}},
      {"two axes", {1, {7}}, {2, {5, 33}}, {{33}}, {{231, 1}}},
      {"all", {0, {}}, {3, {5, 7, 33}}, {}, {{231, 33, 1}}},
      {"much", {1, {2}}, {1, {5003}}, {{5003}}, {{1}}},
      {"none", {2, {5, 7}}, {0, {}}, {{7, 1}}, {}},
  };
  for (const auto& test : cases) {
    const std::string where = TypeName(sizeof(T), "reduce ") + std::to_string(static_cast<int>(op)) + ", " + test.name;
    const Input<T> x = RandomInput<T>(10006, 100, 3.0, 1);
    int64_t results = 1, elements = 1;
    for (int i = 0; i < test.kept.rank; ++i) results *= test.kept.dims[i];
    for (int i = 0; i < test.reduced.rank; ++i) elements *= test.reduced.dims[i];
    Output<T> y(results, 1);
    ReduceArgs args = {.op = op,
                       .dtype = kDtype<T>,
                       .x = x.host.data(),
                       .y = y.host.data(),
                       .kept = test.kept,
                       .reduced = test.reduced,
                       .kept_strides = test.kept_strides,
                       .reduced_strides = test.reduced_strides};
    host::Reduce(args, nullptr);
    args.x = x.device.data();
    args.y = y.device.data();
    Expect(Reduce(args, nullptr), where, report);
    const double share = op == ReduceOp::kMean ? 1.0 / static_cast<double>(elements) : 1.0;
    // A thread's serial sum and five or eight levels of a tree above it.
    const double terms = static_cast<double>(elements) / 32 + 10;
    ExpectSame<T>(
        y,
        [&](int64_t i) {
          return op == ReduceOp::kMax
                     ? 0.0
                     : SumTolerance<T>(std::min(terms, 80.0), 3.0 * static_cast<double>(elements) * share,
                                       static_cast<float>(y.host[i]));
        },
        where, report);
  }
}

template <class T>
void RunSpecialReductions(Report& report) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<T> values(99, static_cast<T>(-2.0f));
  values[40] = static_cast<T>(nan);
  values[70] = static_cast<T>(-kInf);
  const Input<T> x(values);
  for (ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMean}) {
    Output<T> y(3);
    ReduceArgs args = {.op = op,
                       .dtype = kDtype<T>,
                       .x = x.host.data(),
                       .y = y.host.data(),
                       .kept = {1, {3}},
                       .reduced = {1, {33}},
                       .kept_strides = {{33}},
                       .reduced_strides = {{1}}};
    host::Reduce(args, nullptr);
    args.x = x.device.data();
    args.y = y.device.data();
    Expect(Reduce(args, nullptr), "reduce NaN", report);
    ExpectSame<T>(y, nullptr, TypeName(sizeof(T), "reduce NaN"), report);
    args.reduced.dims[0] = 0;  // of nothing: 0, NaN, or refused
    Output<T> empty(3);
    args.y = empty.host.data();
    host::Reduce(args, nullptr);
    args.y = empty.device.data();
    const cudaError_t error = Reduce(args, nullptr);
    if (op == ReduceOp::kMax) {
      report.Expect(error == cudaErrorInvalidValue, "a maximum of nothing", "reduce");
    } else {
      Expect(error, "reduce nothing", report);
      ExpectSame<T>(empty, nullptr, TypeName(sizeof(T), "reduce nothing"), report);
    }
  }
}

template <class T>
void RunSoftmaxColumns(Report& report) {
  for (int64_t axis : {1, 5, 130}) {
    const std::string where = TypeName(sizeof(T), "softmax of columns");
    std::vector<T> values = RandomInput<T>(3 * axis * 37, 110, 20.0).host;
    values[0] = static_cast<T>(-kInf);  // where the axis is longer than one: weight zero
    const Input<T> x(values);
    Output<T> y(3 * axis * 37);
    SoftmaxColumnsArgs args = {
        .dtype = kDtype<T>, .x = x.host.data(), .y = y.host.data(), .outer = 3, .axis = axis, .inner = 37};
    host::SoftmaxColumns(args, nullptr);
    args.x = x.device.data();
    args.y = y.device.data();
    Expect(SoftmaxColumns(args, nullptr), where, report);
    ExpectSame<T>(
        y,
        [&](int64_t i) {
          const double result = static_cast<float>(y.host[i]);
          return result * (60 + static_cast<double>(axis) + 8) * 2 * kEps + (sizeof(T) < 4 ? Ulp<T>(result) : 0x1p-125);
        },
        where, report);
  }
}

template <class T>
void RunMatMul(int m, int n, int k, bool transposed, bool bias, Report& report) {
  const std::string where = TypeName(sizeof(T), "matmul") + " " + std::to_string(m) + " x " + std::to_string(n) +
                            " x " + std::to_string(k) + (transposed ? " transposed" : "");
  const Input<T> a = RandomInput<T>(int64_t{3} * m * k, 120, 1.0, 1), b = RandomInput<T>(int64_t{2} * n * k, 121);
  const Input<float> added = RandomInput<float>(n, 122);
  Output<T> y(int64_t{6} * m * n, 1);
  MatMulArgs args = {.dtype = kDtype<T>,
                     .a = a.host.data(),
                     .b = b.host.data(),
                     .bias = bias ? added.host.data() : nullptr,
                     .y = y.host.data(),
                     .batch = {2, {3, 2}},  // a is repeated along the second, b along the first
                     .a_strides = {{int64_t{m} * k, 0}},
                     .b_strides = {{0, int64_t{n} * k}},
                     .m = m,
                     .n = n,
                     .k = k,
                     .b_k_stride = transposed ? 1 : n,
                     .b_n_stride = transposed ? k : 1};
  host::MatMul(args, nullptr);
  args.a = a.device.data();
  args.b = b.device.data();
  args.bias = bias ? added.device.data() : nullptr;
  args.y = y.device.data();
  Expect(MatMul(args, nullptr), where, report);
  ExpectSame<T>(
      y, [&](int64_t i) { return SumTolerance<T>(k, 1.0 * k + 1, static_cast<float>(y.host[i])); }, where, report);

  // The last row alone has the same bits.
  GuardedBuffer<T> row(n);
  args.batch = {};
  args.a = a.device.data() + (m - 1) * int64_t{k};
  args.m = 1;
  args.y = row.data();
  Expect(MatMul(args, nullptr), where, report);
  report.Expect(SameBytes(row.data(), y.device.data() + (m - 1) * int64_t{n}, n * sizeof(T)),
                "a row's bits depend on the others", where.c_str());
}

struct AttentionCase {
  const char* name;
  int batch, heads, kv_heads, queries, keys, head_dim, value_dim;
  bool causal = false;
  int window = 0;
  int mask = 0;  // 1: bool, 2: f32, 3: of the operands' dtype
};

template <class T>
void RunAttention(const AttentionCase& test, Report& report) {
  const std::string where = TypeName(sizeof(T), "masked attention") + ", " + test.name;
  const int64_t queries = int64_t{test.batch} * test.heads * test.queries;
  const int64_t keys = int64_t{test.batch} * test.kv_heads * test.keys;
  const Input<T> q = RandomInput<T>(queries * test.head_dim, 130, 2.0, 1);
  const Input<T> k = RandomInput<T>(keys * test.head_dim, 131, 2.0);
  const Input<T> v = RandomInput<T>(keys * test.value_dim, 132);
  // [batch, 1, queries, keys]; the first query of each row sees nothing.
  HostRandom random(133);
  std::vector<uint8_t> bools;
  std::vector<float> floats;
  std::vector<T> own;
  for (int64_t i = 0; i < int64_t{test.batch} * test.queries * test.keys; ++i) {
    const bool seen = i / test.keys % test.queries != 0 && random.Below(3) != 0;
    bools.push_back(seen);
    floats.push_back(seen ? static_cast<float>(random.Uniform()) : -kInf);
    own.push_back(static_cast<T>(floats.back()));
  }
  const Input<uint8_t> bool_mask(bools);
  const Input<float> float_mask(floats);
  const Input<T> own_mask(own);
  Output<T> y(queries * test.value_dim, 1);
  MaskedAttentionArgs args = {.dtype = kDtype<T>,
                              .q = q.host.data(),
                              .k = k.host.data(),
                              .v = v.host.data(),
                              .y = y.host.data(),
                              .batch = test.batch,
                              .heads = test.heads,
                              .kv_heads = test.kv_heads,
                              .queries = test.queries,
                              .keys = test.keys,
                              .head_dim = test.head_dim,
                              .value_dim = test.value_dim,
                              .causal = test.causal,
                              .window = test.window,
                              .scale = 0.3f};
  const void* const host_masks[] = {nullptr, bool_mask.host.data(), float_mask.host.data(), own_mask.host.data()};
  const void* const device_masks[] = {nullptr, bool_mask.device.data(), float_mask.device.data(),
                                      own_mask.device.data()};
  args.mask = host_masks[test.mask];
  args.mask_dtype = test.mask == 1 ? Dtype::kBool : test.mask == 2 ? Dtype::kF32 : kDtype<T>;
  args.mask_strides[0] = int64_t{test.queries} * test.keys;
  args.mask_strides[2] = test.keys;
  args.mask_strides[3] = 1;
  host::MaskedAttention(args, nullptr);
  args.q = q.device.data();
  args.k = k.device.data();
  args.v = v.device.data();
  args.y = y.device.data();
  args.mask = device_masks[test.mask];
  Expect(MaskedAttention(args, nullptr), where, report);
  // A score of magnitude s in all is off by (head_dim + 4) eps s, and so is, relative to it, its weight; values are at
  // most 1.
  const double score = 0.3 * 4.0 * test.head_dim + 1;
  const double error = 2 * ((test.head_dim + 4) * kEps * score + (test.keys + 8) * kEps);
  ExpectSame<T>(
      y, [&](int64_t i) { return error + (sizeof(T) < 4 ? Ulp<T>(static_cast<float>(y.host[i])) : 0.0); }, where,
      report);
}

template <class T, class Angle>
void RunRope(int channels, Report& report) {
  const std::string where = TypeName(sizeof(T), "rope") + ", " + std::to_string(channels) + " channels";
  // x[2, 3, 5, channels], angles of [5, channels] and [2, 1, 5, channels].
  const Input<T> x = RandomInput<T>(30 * channels, 140, 2.0, 1);
  const Input<Angle> cos = RandomInput<Angle>(5 * channels, 141), sin = RandomInput<Angle>(10 * channels, 142);
  Output<T> y(30 * channels, 1);
  RopeArgs args = {.dtype = kDtype<T>,
                   .angle_dtype = kDtype<Angle>,
                   .x = x.host.data(),
                   .cos = cos.host.data(),
                   .sin = sin.host.data(),
                   .y = y.host.data(),
                   .rows = {3, {2, 3, 5}},
                   .cos_strides = {{0, 0, channels}},
                   .sin_strides = {{int64_t{5} * channels, 0, channels}},
                   .channels = channels};
  host::Rope(args, nullptr);
  args.x = x.device.data();
  args.cos = cos.device.data();
  args.sin = sin.device.data();
  args.y = y.device.data();
  Expect(Rope(args, nullptr), where, report);
  const auto tolerance = [&](int64_t i) { return SumTolerance<T>(2, 4.0, static_cast<float>(y.host[i])); };
  ExpectSame<T>(y, tolerance, where, report);
  FF_CUDA_OK(cudaMemcpy(y.device.data(), x.host.data(), x.host.size() * sizeof(T), cudaMemcpyHostToDevice));
  args.x = y.device.data();
  Expect(Rope(args, nullptr), where, report);
  ExpectSame<T>(y, tolerance, where + " in place", report);
}

// Rows that are not of whole 16 bytes: norm_plain.h.
template <class T>
void RunNorm(int columns, bool rms, bool residual, Report& report) {
  const std::string where = TypeName(sizeof(T), "plain norm") + ", " + std::to_string(columns) + " columns";
  constexpr int kRows = 5;
  const int64_t ld = columns + 3;
  const Input<T> x = RandomInput<T>(kRows * ld, 150, 2.0, 1), added = RandomInput<T>(kRows * ld, 151, 2.0);
  const Input<float> gamma = RandomInput<float>(columns, 152), beta = RandomInput<float>(columns, 153);
  Output<T> y(kRows * ld, 1), sum(kRows * ld);
  for (Output<T>* output : {&y, &sum})
    std::memset(static_cast<void*>(output->host.data()), 0xff, kRows * ld * sizeof(T));
  NormArgs args;
  args.rows = kRows;
  args.columns = columns;
  args.ld = ld;
  args.epsilon = 1e-5f;
  args.rms = rms;
  args.dtype = kDtype<T>;
  args.x = x.host.data();
  args.y = y.host.data();
  args.gamma = gamma.host.data();
  args.beta = rms ? nullptr : beta.host.data();
  args.residual = residual ? added.host.data() : nullptr;
  args.sum = residual ? sum.host.data() : nullptr;
  host::NormPlain(args, nullptr);
  args.x = x.device.data();
  args.y = y.device.data();
  args.gamma = gamma.device.data();
  args.beta = rms ? nullptr : beta.device.data();
  args.residual = residual ? added.device.data() : nullptr;
  args.sum = residual ? sum.device.data() : nullptr;
  Expect(Norm(args, nullptr), where, report);
  // Relative to values of at most sqrt(columns), mean and variance are sums of serial parts and a tree of eight.
  const double magnitude = std::sqrt(static_cast<double>(columns)) + 1;
  const double serial = static_cast<double>(columns) / 256 + 12;
  ExpectSame<T>(
      y, [&](int64_t i) { return SumTolerance<T>(serial, magnitude, static_cast<float>(y.host[i])); }, where, report);
  if (residual) ExpectSame<T>(sum, nullptr, where + ", the sum", report);
  NormArgs bare = args;  // without gamma, beta and the sum
  bare.gamma = bare.beta = nullptr;
  bare.sum = nullptr;
  Output<T> plain(kRows * ld);
  std::memset(static_cast<void*>(plain.host.data()), 0xff, kRows * ld * sizeof(T));
  bare.y = plain.device.data();
  Expect(Norm(bare, nullptr), where, report);
  bare.x = x.host.data();
  bare.residual = residual ? added.host.data() : nullptr;
  bare.y = plain.host.data();
  host::NormPlain(bare, nullptr);
  ExpectSame<T>(
      plain, [&](int64_t i) { return SumTolerance<T>(serial, magnitude, static_cast<float>(plain.host[i])); },
      where + ", bare", report);
}

template <class T>
void RunAll(Report& report) {
  for (ReduceOp op : {ReduceOp::kSum, ReduceOp::kMean, ReduceOp::kMax}) RunReduce<T>(op, report);
  RunSpecialReductions<T>(report);
  RunSoftmaxColumns<T>(report);
  RunMatMul<T>(1, 1, 1, false, false, report);
  RunMatMul<T>(65, 67, 33, false, false, report);
  RunMatMul<T>(65, 67, 33, true, true, report);
  RunMatMul<T>(3, 130, 257, false, true, report);
  RunMatMul<T>(64, 64, 16, true, false, report);
  RunMatMul<T>(4, 5, 0, false, true, report);
  for (const AttentionCase& test : {
           AttentionCase{"full", 2, 4, 2, 5, 7, 64, 64},
           AttentionCase{"causal", 1, 3, 3, 9, 37, 33, 47, true},
           AttentionCase{"more queries than keys", 1, 2, 1, 9, 5, 16, 16, true},
           AttentionCase{"window", 2, 2, 2, 21, 21, 128, 128, true, 4},
           AttentionCase{"wide heads", 1, 1, 1, 3, 19, 512, 300},
           AttentionCase{"bool mask", 2, 3, 1, 6, 23, 40, 40, false, 0, 1},
           AttentionCase{"f32 mask", 2, 3, 1, 6, 23, 40, 40, false, 0, 2},
           AttentionCase{"own mask and causal", 2, 3, 1, 6, 23, 40, 40, true, 0, 3},
           AttentionCase{"no keys", 1, 2, 2, 3, 0, 8, 8},
       }) {
    RunAttention<T>(test, report);
  }
  for (int channels : {2, 6, 64}) {
    RunRope<T, T>(channels, report);
    RunRope<T, float>(channels, report);
  }
  for (int columns : {1, 7, 255, 1003}) {
    RunNorm<T>(columns, false, false, report);
    RunNorm<T>(columns, true, true, report);
    RunNorm<T>(columns, false, true, report);
  }
}

}  // namespace

void TestContractions(Report& report) {
  RunAll<float>(report);
  RunAll<Bf16>(report);
  RunAll<__half>(report);
  report.Expect(MaskedAttention({.heads = 1, .kv_heads = 1, .head_dim = 513}, nullptr) == cudaErrorNotSupported,
                "a head of 513 channels is taken", "masked attention");
  report.Expect(Rope({.channels = 3}, nullptr) == cudaErrorNotSupported, "odd channels are taken", "rope");
}

}  // namespace flashflow::cuda::testing
