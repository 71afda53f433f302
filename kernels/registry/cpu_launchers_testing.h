// What the tests of the CPU launchers share: tensors with their own elements, a fixture that binds and launches, and
// tables of launches that must be refused.
#ifndef KERNELS_REGISTRY_CPU_LAUNCHERS_TESTING_H_
#define KERNELS_REGISTRY_CPU_LAUNCHERS_TESTING_H_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/registry/cpu_launchers.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels {

template <typename T>
inline constexpr DType kDTypeOf = DType::kF32;
template <>
inline constexpr DType kDTypeOf<int32_t> = DType::kI32;
template <>
inline constexpr DType kDTypeOf<int64_t> = DType::kI64;
template <>
inline constexpr DType kDTypeOf<uint8_t> = DType::kBool;  // bytes 0 and 1; vector<bool> has none
template <>
inline constexpr DType kDTypeOf<uint16_t> = DType::kBF16;  // its bits

inline constexpr DType kF32 = DType::kF32;
inline constexpr DType kI32 = DType::kI32;

inline TensorView View(void* data, DType dtype, const std::vector<int64_t>& dims) {
  TensorView view{.data = data, .dtype = dtype, .rank = static_cast<int>(dims.size())};
  std::copy(dims.begin(), dims.end(), view.dims.begin());
  return view;
}

// A tensor with its own elements.
template <typename T>
struct Tensor {
  std::vector<int64_t> dims;
  std::vector<T> data;
  TensorView view() { return View(data.data(), kDTypeOf<T>, dims); }
};
using F = Tensor<float>;
using I = Tensor<int32_t>;
using B = Tensor<uint8_t>;

inline TensorView Absent() { return TensorView(); }

// A launch that must be refused, with a phrase of the message that says why.
struct Refusal {
  std::string_view id, op;
  AttrMap attrs;
  std::vector<TensorView> inputs, outputs;
  std::string message;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

// Binds a kernel for exactly the operands given and launches it on them.
class CpuLaunchersTest : public testing::Test {
 protected:
  CpuLaunchersTest() { EXPECT_TRUE(RegisterCpuKernels(&launchers_).ok()); }

  absl::StatusOr<std::unique_ptr<BoundKernel>> Bind(std::string_view id, std::string_view op, const AttrMap& attrs,
                                                    const std::vector<std::optional<DType>>& inputs,
                                                    const std::vector<DType>& outputs) {
    return launchers_.Bind(id, 1, {attrs, inputs, outputs, op});
  }

  absl::Status Run(std::string_view id, std::string_view op, const AttrMap& attrs,
                   const std::vector<TensorView>& inputs, const std::vector<TensorView>& outputs) {
    std::vector<std::optional<DType>> input_dtypes;
    for (const TensorView& view : inputs) {
      input_dtypes.push_back(view.data != nullptr ? std::optional<DType>(view.dtype) : std::nullopt);
    }
    std::vector<DType> output_dtypes;
    for (const TensorView& view : outputs) output_dtypes.push_back(view.dtype);
    absl::StatusOr<std::unique_ptr<BoundKernel>> kernel = Bind(id, op, attrs, input_dtypes, output_dtypes);
    if (!kernel.ok()) return kernel.status();
    return (*kernel)->Launch({.inputs = inputs,
                              .outputs = outputs,
                              .cache = cache_,
                              .workspace = workspace_.data(),
                              .workspace_bytes = workspace_.size() * sizeof(float),
                              .device = &pool_});
  }

  void ExpectBindError(std::string_view id, std::string_view op, const AttrMap& attrs,
                       const std::vector<std::optional<DType>>& inputs, const std::vector<DType>& outputs,
                       const std::string& message) {
    const auto kernel = Bind(id, op, attrs, inputs, outputs);
    EXPECT_EQ(kernel.status().code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(kernel.status().message()), testing::HasSubstr(message));
    EXPECT_THAT(std::string(kernel.status().message()), testing::HasSubstr(id));
  }

  static void ExpectError(const absl::Status& status, const std::string& message,
                          absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(message));
  }

  // An operand of zeros whose elements no test looks at, for launches that are refused. All of them lie at the same
  // place, long enough for any that a refusal's guard keeps from being read or written.
  TensorView Zeros(const std::vector<int64_t>& dims, DType dtype = kF32) { return View(zeros_.data(), dtype, dims); }

  void ExpectRefused(const std::vector<Refusal>& refusals) {
    for (const Refusal& refusal : refusals) {
      SCOPED_TRACE(testing::Message() << refusal.id << ": " << refusal.message);
      ExpectError(Run(refusal.id, refusal.op, refusal.attrs, refusal.inputs, refusal.outputs), refusal.message,
                  refusal.code);
      zeros_.fill(0);
    }
  }

  Launchers launchers_;
  cpu::ThreadPool pool_{2};
  const CacheView* cache_ = nullptr;
  std::vector<float> workspace_ = std::vector<float>(64, NAN);

 private:
  alignas(64) std::array<float, 8192> zeros_{};
};

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_CPU_LAUNCHERS_TESTING_H_
