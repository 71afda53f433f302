// The elementwise kernels of indices and masks: integer arithmetic, comparisons, logic and selection.
#include <cstdint>
#include <limits>
#include <vector>

#include "compiler/ir/dtype.h"
#include "gtest/gtest.h"
#include "kernels/cpu/integer_binary.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/predicate.h"
#include "kernels/cpu/select.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

// y[R, C] of a column and a row, and the same the other way round.
struct Broadcast {
  std::vector<int64_t> dims, a, b;
  int64_t At(const std::vector<int64_t>& strides, int64_t i) const {
    return i / dims[1] * strides[0] + i % dims[1] * strides[1];
  }
};

std::vector<Broadcast> Broadcasts() {
  std::vector<Broadcast> all;
  for (int64_t n : kOddSizes) {
    all.push_back({{3, n}, {n, 1}, {n, 1}});
    all.push_back({{3, n}, {1, 0}, {0, 1}});
    all.push_back({{3, n}, {0, 0}, {n, 1}});
  }
  all.push_back({{100003, 1}, {1, 0}, {1, 0}});  // enough for several threads
  all.push_back({{1009, 97}, {1, 0}, {0, 1}});
  return all;
}

template <typename T>
std::vector<T> Values(size_t count, int step) {
  std::vector<T> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<T>(static_cast<int64_t>(i) * step % 7 - 3);
  return values;
}

template <typename T>
void TestIntegers(DType dtype) {
  ThreadPool pool(3);
  for (const Broadcast& c : Broadcasts()) {
    const int64_t count = c.dims[0] * c.dims[1];
    const std::vector<T> a = Values<T>(static_cast<size_t>(count), 5), b = Values<T>(static_cast<size_t>(count), 3);
    for (IntegerOp op : {IntegerOp::kAdd, IntegerOp::kSub, IntegerOp::kMul, IntegerOp::kMaximum, IntegerOp::kMinimum}) {
      Guarded<T> y(static_cast<size_t>(count));
      IntegerBinary(op, dtype, a.data(), c.a, b.data(), c.b, y.data(), c.dims, &pool);
      for (int64_t i = 0; i < count; ++i) {
        const T p = a[c.At(c.a, i)], q = b[c.At(c.b, i)];
        const T exact = op == IntegerOp::kAdd       ? p + q
                        : op == IntegerOp::kSub     ? p - q
                        : op == IntegerOp::kMul     ? p * q
                        : op == IntegerOp::kMaximum ? std::max(p, q)
                                                    : std::min(p, q);
        ASSERT_EQ(y[i], exact) << static_cast<int>(op) << " of " << p << " and " << q;
      }
    }
  }
  const T most = std::numeric_limits<T>::max(), least = std::numeric_limits<T>::min(), one = 1, two = 2;
  const std::vector<int64_t> none;
  T y = 0;
  IntegerBinary(IntegerOp::kAdd, dtype, &most, none, &one, none, &y, none, &pool);
  EXPECT_EQ(y, least);
  IntegerBinary(IntegerOp::kSub, dtype, &least, none, &one, none, &y, none, &pool);
  EXPECT_EQ(y, most);
  IntegerBinary(IntegerOp::kMul, dtype, &most, none, &two, none, &y, none, &pool);
  EXPECT_EQ(y, -2);
}

TEST(MaskArithmeticTest, I32) { TestIntegers<int32_t>(DType::kI32); }
TEST(MaskArithmeticTest, I64) { TestIntegers<int64_t>(DType::kI64); }

template <typename T>
void TestCompare(DType dtype, const std::vector<T>& a, const std::vector<T>& b) {
  ThreadPool pool(3);
  for (const Broadcast& c : Broadcasts()) {
    const int64_t count = c.dims[0] * c.dims[1];
    std::vector<T> x(static_cast<size_t>(count)), z(static_cast<size_t>(count));
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = a[i % a.size()];
      z[i] = b[(i / a.size() + i) % b.size()];
    }
    for (CompareOp op :
         {CompareOp::kEq, CompareOp::kNe, CompareOp::kLt, CompareOp::kLe, CompareOp::kGt, CompareOp::kGe}) {
      Guarded<bool> y(static_cast<size_t>(count));
      Compare(op, dtype, x.data(), c.a, z.data(), c.b, y.data(), c.dims, &pool);
      for (int64_t i = 0; i < count; ++i) {
        const T p = x[c.At(c.a, i)], q = z[c.At(c.b, i)];
        const bool exact = op == CompareOp::kEq   ? p == q
                           : op == CompareOp::kNe ? p != q
                           : op == CompareOp::kLt ? p < q
                           : op == CompareOp::kLe ? p <= q
                           : op == CompareOp::kGt ? p > q
                                                  : p >= q;
        ASSERT_EQ(static_cast<int>(reinterpret_cast<const uint8_t*>(y.data())[i]), exact ? 1 : 0)
            << static_cast<int>(op) << " of " << p << " and " << q;
      }
    }
  }
}

TEST(MaskArithmeticTest, Comparisons) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> floats = {0.0f, -0.0f, 1.5f, -2.5f, kInf, -kInf, std::numeric_limits<float>::quiet_NaN()};
  TestCompare<float>(DType::kF32, floats, floats);
  TestCompare<int32_t>(DType::kI32, {-3, 0, 7, 7}, {7, -3, 1});
  TestCompare<int64_t>(DType::kI64, {int64_t{1} << 40, 0, -1}, {0, int64_t{1} << 40, (int64_t{1} << 40) + 1});
  TestCompare<uint8_t>(DType::kBool, {0, 1}, {1, 0, 0});
}

TEST(MaskArithmeticTest, Logic) {
  ThreadPool pool(3);
  for (const Broadcast& c : Broadcasts()) {
    const int64_t count = c.dims[0] * c.dims[1];
    Guarded<bool> a(static_cast<size_t>(count)), b(static_cast<size_t>(count)), both(static_cast<size_t>(count)),
        either(static_cast<size_t>(count)), neither(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      a[i] = i % 3 == 0;
      b[i] = i % 5 < 2;
    }
    Logical(LogicalOp::kAnd, a.data(), c.a, b.data(), c.b, both.data(), c.dims, &pool);
    Logical(LogicalOp::kOr, a.data(), c.a, b.data(), c.b, either.data(), c.dims, &pool);
    LogicalNot(either.data(), neither.data(), count, &pool);
    for (int64_t i = 0; i < count; ++i) {
      const bool p = a[c.At(c.a, i)], q = b[c.At(c.b, i)];
      ASSERT_EQ(both[i], p && q);
      ASSERT_EQ(either[i], p || q);
      ASSERT_EQ(neither[i], !p && !q);
    }
  }
}

template <typename T>
void TestSelect() {
  ThreadPool pool(3);
  for (const Broadcast& c : Broadcasts()) {
    const int64_t count = c.dims[0] * c.dims[1];
    const std::vector<T> a = Values<T>(static_cast<size_t>(count), 5), b = Values<T>(static_cast<size_t>(count), 2);
    Guarded<bool> condition(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) condition[i] = i % 3 != 1;
    for (const std::vector<int64_t>& strides : {std::vector<int64_t>{c.dims[1], 1}, {1, 0}, {0, 1}}) {
      Guarded<T> y(static_cast<size_t>(count));
      Select(condition.data(), strides, a.data(), c.a, b.data(), c.b, y.data(), c.dims, sizeof(T), &pool);
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(y[i], condition[c.At(strides, i)] ? a[c.At(c.a, i)] : b[c.At(c.b, i)]) << i;
      }
    }
  }
}

TEST(MaskArithmeticTest, SelectsElementsOfEverySize) {
  TestSelect<uint8_t>();
  TestSelect<uint16_t>();
  TestSelect<float>();
  TestSelect<int64_t>();
}

}  // namespace
}  // namespace flashflow::cpu
