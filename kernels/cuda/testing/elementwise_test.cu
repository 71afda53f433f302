// Elementwise kernels, lookups and copies against the host.
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

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
const std::vector<float> kCorners = {0.0f,   -0.0f,         1.0f,           -1.0f,    0.5f,   -2.5f,   88.0f,
                                     -88.0f, 104.0f,        -104.0f,        1e-30f,   1e-40f, -1e-40f, 3.0e38f,
                                     -3e38f, 1e5f,          -7e4f,          39500.5f, kInf,   -kInf,   kNan,
                                     255.5f, 2147483648.0f, -2147483648.0f, 9.3e18f};

template <class T>
constexpr Dtype kTypeOf = std::is_same_v<T, int8_t>    ? Dtype::kS8
                          : std::is_same_v<T, int32_t> ? Dtype::kS32
                          : std::is_same_v<T, int64_t> ? Dtype::kS64
                          : std::is_same_v<T, uint8_t> ? Dtype::kBool
                                                       : kDtype<T>;

// Uniform numbers between the corners.
template <class T>
std::vector<T> FloatsWithCorners(int64_t count, uint64_t seed, double scale) {
  HostRandom random(seed);
  std::vector<T> values;
  for (int64_t i = 0; i < count; ++i) {
    const double x = random.Below(4) == 0 ? kCorners[random.Below(kCorners.size())] : random.Uniform() * scale;
    values.push_back(static_cast<T>(static_cast<float>(x)));
  }
  return values;
}

template <class T>
std::vector<T> Integers(int64_t count, uint64_t seed) {
  HostRandom random(seed);
  std::vector<T> values;
  for (int64_t i = 0; i < count; ++i) {
    const auto wide = static_cast<int64_t>(random.Uniform() * 0x1p62) * 2 + random.Below(2);
    values.push_back(static_cast<T>(random.Below(2) == 0 ? wide : random.Below(7) - 3));
  }
  return values;
}

template <class T>
std::vector<T> Values(int64_t count, uint64_t seed) {
  if constexpr (std::is_same_v<T, uint8_t>) {  // bool
    HostRandom random(seed);
    std::vector<T> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<T>(random.Below(2)));
    return values;
  } else if constexpr (std::is_integral_v<T>) {
    return Integers<T>(count, seed);
  } else {
    return FloatsWithCorners<T>(count, seed, 4.0);
  }
}

void Expect(cudaError_t error, const std::string& where, Report& report) {
  report.Expect(error == cudaSuccess, cudaGetErrorString(error), where.c_str());
}

// How far off, in ulp of the result, unary.h lets an op be at x.
double AllowedUlp(UnaryOp op, double x) {
  switch (op) {
    case UnaryOp::kNeg:
    case UnaryOp::kAbs:
    case UnaryOp::kSqrt:
    case UnaryOp::kReciprocal:
    case UnaryOp::kRelu:
      return 0;
    case UnaryOp::kGelu:
      return 16;
    case UnaryOp::kGeluTanh:
      return 16 + 14 * std::fabs(0.79788456 * (x + 0.044715 * x * x * x));
    default:
      return 8;
  }
}

template <class T>
void RunUnary(UnaryOp op, int64_t count, bool in_place, Report& report) {
  const std::string where = "unary " + std::to_string(static_cast<int>(op)) + " of " + std::to_string(sizeof(T)) +
                            " bytes, count " + std::to_string(count);
  const Input<T> x(FloatsWithCorners<T>(count, 20 + static_cast<int>(op), 12.0), 1);
  Output<T> y(count, 1);
  if (in_place) {
    FF_CUDA_OK(cudaMemcpy(y.device.data(), x.host.data(), count * sizeof(T), cudaMemcpyHostToDevice));
  }
  UnaryArgs args = {.op = op, .dtype = kDtype<T>, .x = x.host.data(), .y = y.host.data(), .count = count};
  host::Unary(args, nullptr);
  args.x = in_place ? y.device.data() : x.device.data();
  args.y = y.device.data();
  Expect(Unary(args, nullptr), where, report);
  ExpectSame<T>(
      y,
      [&](int64_t i) {
        const double value = static_cast<float>(x.host[i]), result = static_cast<float>(y.host[i]);
        const double f32 = AllowedUlp(op, value) * Ulp<float>(result) + std::fabs(value) * 0x1p-149;
        const bool exact = AllowedUlp(op, value) == 0;
        return exact ? 0.0 : f32 + (sizeof(T) < 4 ? Ulp<T>(result) : 0.0);  // the other side of a tie
      },
      where, report);
}

template <class T>
void RunBinary(BinaryOp op, Report& report) {
  struct {
    const char* name;
    Strides a, b;
    int64_t a_count, b_count;
    Shape shape = {.rank = 4, .dims = {3, 5, 1, 37}};
    int64_t count = 555;
    int64_t misalign = 1;  // of a, in elements
  } cases[] = {
      {"dense", {{185, 37, 37, 1}}, {{185, 37, 37, 1}}, 555, 555},
      {"rows", {{185, 37, 37, 1}}, {{0, 0, 0, 1}}, 555, 37},
      {"outer", {{0, 37, 37, 1}}, {{1, 0, 0, 0}}, 185, 3},
      {"columns", {{0, 1, 0, 0}}, {{185, 37, 37, 1}}, 5, 555},
      {"scalar", {{0, 0, 0, 0}}, {{1, 3, 0, 15}}, 1, 555},  // b transposed
      {"vectors", {{520, 1}}, {{520, 1}}, 1560, 1560, {.rank = 2, .dims = {3, 520}}, 1560, 0},
      {"misaligned", {{520, 1}}, {{520, 1}}, 1560, 1560, {.rank = 2, .dims = {3, 520}}, 1560},
  };
  for (const auto& test : cases) {
    const std::string where = std::string("binary ") + test.name + " " + std::to_string(static_cast<int>(op)) + " of " +
                              std::to_string(static_cast<int>(kTypeOf<T>));
    const Input<T> a(Values<T>(test.a_count, 31), test.misalign), b(Values<T>(test.b_count, 32));
    BinaryArgs args = {.op = op,
                       .dtype = kTypeOf<T>,
                       .a = a.host.data(),
                       .b = b.host.data(),
                       .shape = test.shape,
                       .a_strides = test.a,
                       .b_strides = test.b};
    const auto run = [&](auto& y, const auto& tolerance) {
      args.y = y.host.data();
      host::Binary(args, nullptr);
      args.a = a.device.data();
      args.b = b.device.data();
      args.y = y.device.data();
      Expect(Binary(args, nullptr), where, report);
      ExpectSame(y, tolerance, where, report);
    };
    if (op >= BinaryOp::kEq) {
      Output<uint8_t> y(test.count);
      run(y, nullptr);
    } else {
      Output<T> y(test.count);
      if (op == BinaryOp::kPow) {
        run(y, [&](int64_t i) {
          if constexpr (std::is_integral_v<T>) {
            return 0.0;
          } else {
            const double result = static_cast<float>(y.host[i]);
            return 8 * Ulp<float>(result) + (sizeof(T) < 4 ? Ulp<T>(result) : 0.0);
          }
        });
      } else {
        run(y, nullptr);
      }
    }
  }
}

template <class From, class To>
void RunCast(Report& report) {
  const std::string where = "cast " + std::to_string(static_cast<int>(kTypeOf<From>)) + " to " +
                            std::to_string(static_cast<int>(kTypeOf<To>));
  const Input<From> x(Values<From>(1003, 41));
  Output<To> y(1003);
  CastArgs args = {.from = kTypeOf<From>, .to = kTypeOf<To>, .x = x.host.data(), .y = y.host.data(), .count = 1003};
  host::Cast(args, nullptr);
  args.x = x.device.data();
  args.y = y.device.data();
  Expect(Cast(args, nullptr), where, report);
  ExpectSame<To>(y, nullptr, where, report);
}

template <class From>
void RunCasts(Report& report) {
  RunCast<From, float>(report);
  RunCast<From, __half>(report);
  RunCast<From, Bf16>(report);
  RunCast<From, int8_t>(report);
  RunCast<From, int32_t>(report);
  RunCast<From, int64_t>(report);
  RunCast<From, uint8_t>(report);
}

template <class T>
void RunMoves(Report& report) {
  const std::string type = " of " + std::to_string(sizeof(T)) + " bytes";
  constexpr int kBytes = sizeof(T);

  Output<T> filled(1001, 1);
  FillArgs fill = {.value = 0x8877665544332211, .element_bytes = kBytes, .y = filled.host.data(), .count = 1001};
  host::Fill(fill, nullptr);
  fill.y = filled.device.data();
  Expect(Fill(fill, nullptr), "fill", report);
  ExpectSame<T>(filled, nullptr, "fill" + type, report);

  struct {
    const char* name;
    Shape shape;
    Strides from, to;
    int64_t from_count, to_count, misalign;
  } copies[] = {
      {"transpose", {3, {7, 9, 33}}, {{1, 7, 63}}, {{297, 33, 1}}, 2079, 2079, 0},
      {"transpose of rows", {3, {7, 9, 32}}, {{32, 224, 1}}, {{288, 32, 1}}, 2016, 2016, 0},
      {"transpose of misaligned rows", {3, {7, 9, 32}}, {{32, 224, 1}}, {{288, 32, 1}}, 2016, 2016, 1},
      {"expand", {3, {5, 6, 16}}, {{0, 16, 1}}, {{96, 16, 1}}, 96, 480, 0},
      {"slice by 3", {2, {11, 5}}, {{17, 3}}, {{5, 1}}, 187, 55, 0},
      {"into a part", {2, {6, 16}}, {{16, 1}}, {{32, 1}}, 96, 176, 0},
      {"one element", {0, {}}, {}, {}, 1, 1, 0},
      {"nothing", {2, {0, 8}}, {{8, 1}}, {{8, 1}}, 8, 1, 0},
      {"six dims", {6, {2, 3, 2, 3, 2, 4}}, {{144, 1, 72, 3, 36, 9}}, {{144, 48, 24, 8, 4, 1}}, 288, 288, 0},
  };
  for (const auto& test : copies) {
    const Input<T> from(Integers<T>(test.from_count, 51), test.misalign);
    Output<T> to(test.to_count, test.misalign);
    std::memset(to.host.data(), 0xff, to.host.size() * kBytes);  // what is not written stays
    CopyArgs args = {.from = from.host.data(),
                     .to = to.host.data(),
                     .element_bytes = kBytes,
                     .shape = test.shape,
                     .from_strides = test.from,
                     .to_strides = test.to};
    host::StridedCopy(args, nullptr);
    args.from = from.device.data();
    args.to = to.device.data();
    Expect(StridedCopy(args, nullptr), test.name, report);
    ExpectSame<T>(to, nullptr, std::string("copy ") + test.name + type, report);
  }

  const Input<uint8_t> condition(Values<uint8_t>(9, 61));
  const Input<T> a(Integers<T>(9 * 37, 62)), b(Integers<T>(37, 63));
  Output<T> chosen(4 * 9 * 37);
  SelectArgs select = {.condition = condition.host.data(),
                       .a = a.host.data(),
                       .b = b.host.data(),
                       .y = chosen.host.data(),
                       .element_bytes = kBytes,
                       .shape = {3, {4, 9, 37}},
                       .condition_strides = {{0, 1, 0}},
                       .a_strides = {{0, 37, 1}},
                       .b_strides = {{0, 0, 1}}};
  host::Select(select, nullptr);
  select.condition = condition.device.data();
  select.a = a.device.data();
  select.b = b.device.data();
  select.y = chosen.device.data();
  Expect(Select(select, nullptr), "select", report);
  ExpectSame<T>(chosen, nullptr, "select" + type, report);

  // x[5, 6, run] by i64[3, 1] and i32[4], some of them out of range.
  for (int64_t run : {1, 3, 16}) {
    const Input<T> x(Integers<T>(30 * run, 71));
    const Input<int64_t> rows({-5, 4, int64_t{1} << 32});
    const Input<int32_t> columns({0, -6, 5, 6});
    Output<T> y(12 * run);
    IndexArgs args = {.x = x.host.data(),
                      .axes = 2,
                      .shape = {2, {3, 4}},
                      .run_bytes = run * kBytes,
                      .missing = 0xfe,
                      .y = y.host.data()};
    args.indices[0] = {.data = rows.host.data(), .wide = true, .strides = {{1, 0}}, .size = 5};
    args.indices[1] = {.data = columns.host.data(), .wide = false, .strides = {{0, 1}}, .size = 6};
    host::Index(args, nullptr);
    args.x = x.device.data();
    args.y = y.device.data();
    args.indices[0].data = rows.device.data();
    args.indices[1].data = columns.device.data();
    Expect(Index(args, nullptr), "index", report);
    ExpectSame<T>(y, nullptr, "index of runs of " + std::to_string(run) + type, report);
  }
}

template <class T>
void RunIotaAndCumsum(Report& report) {
  for (const auto& [outer, axis, inner] : {std::tuple(3, 7, 1), std::tuple(2, 21, 5), std::tuple(1, 1030, 1)}) {
    const std::string where = "axis of " + std::to_string(axis) + " of " + std::to_string(static_cast<int>(kTypeOf<T>));
    const int64_t count = int64_t{outer} * axis * inner;
    Output<T> indices(count);
    IotaArgs iota = {.dtype = kTypeOf<T>, .y = indices.host.data(), .outer = outer, .axis = axis, .inner = inner};
    host::Iota(iota, nullptr);
    iota.y = indices.device.data();
    Expect(Iota(iota, nullptr), where, report);
    ExpectSame<T>(indices, nullptr, "iota " + where, report);

    std::vector<T> values = Values<T>(count, 81);
    const Input<T> x(values);
    Output<T> y(count);
    CumsumArgs args = {
        .dtype = kTypeOf<T>, .x = x.host.data(), .y = y.host.data(), .outer = outer, .axis = axis, .inner = inner};
    host::Cumsum(args, nullptr);
    args.x = x.device.data();
    args.y = y.device.data();
    Expect(Cumsum(args, nullptr), where, report);
    ExpectSame<T>(y, nullptr, "cumsum " + where, report);
  }
}

}  // namespace

void TestElementwise(Report& report) {
  for (int op = 0; op < static_cast<int>(UnaryOp::kNot); ++op) {
    for (int64_t count : {1, 255, 1003}) {
      RunUnary<float>(static_cast<UnaryOp>(op), count, count == 255, report);
      RunUnary<Bf16>(static_cast<UnaryOp>(op), count, false, report);
      RunUnary<__half>(static_cast<UnaryOp>(op), count, false, report);
    }
  }
  const Input<uint8_t> bools(Values<uint8_t>(77, 91));
  Output<uint8_t> inverted(77);
  UnaryArgs invert = {
      .op = UnaryOp::kNot, .dtype = Dtype::kBool, .x = bools.host.data(), .y = inverted.host.data(), .count = 77};
  host::Unary(invert, nullptr);
  invert.x = bools.device.data();
  invert.y = inverted.device.data();
  Expect(Unary(invert, nullptr), "not", report);
  ExpectSame<uint8_t>(inverted, nullptr, "not", report);

  for (int op = 0; op < static_cast<int>(BinaryOp::kAnd); ++op) {
    const auto binary = static_cast<BinaryOp>(op);
    RunBinary<float>(binary, report);
    RunBinary<Bf16>(binary, report);
    RunBinary<__half>(binary, report);
    if (binary != BinaryOp::kDiv && binary != BinaryOp::kPow) {
      RunBinary<int32_t>(binary, report);
      RunBinary<int64_t>(binary, report);
    }
    if (binary >= BinaryOp::kEq) RunBinary<uint8_t>(binary, report);
  }
  RunBinary<uint8_t>(BinaryOp::kAnd, report);
  RunBinary<uint8_t>(BinaryOp::kOr, report);

  RunCasts<float>(report);
  RunCasts<__half>(report);
  RunCasts<Bf16>(report);
  RunCasts<int8_t>(report);
  RunCasts<int32_t>(report);
  RunCasts<int64_t>(report);
  RunCasts<uint8_t>(report);

  RunMoves<uint8_t>(report);
  RunMoves<uint16_t>(report);
  RunMoves<uint32_t>(report);
  RunMoves<uint64_t>(report);

  RunIotaAndCumsum<float>(report);
  RunIotaAndCumsum<int32_t>(report);
  RunIotaAndCumsum<int64_t>(report);

  report.Expect(Unary({.dtype = Dtype::kS8}, nullptr) == cudaErrorNotSupported, "s8 is taken", "unary");
  report.Expect(Unary({.count = 1}, nullptr) == cudaErrorInvalidValue, "null pointers are taken", "unary");
  report.Expect(Binary({.op = BinaryOp::kDiv, .dtype = Dtype::kS32}, nullptr) == cudaErrorNotSupported,
                "integers are divided", "binary");
  report.Expect(Binary({.shape = {.rank = 7}}, nullptr) == cudaErrorInvalidValue, "7 dims are taken", "binary");
}

}  // namespace flashflow::cuda::testing
