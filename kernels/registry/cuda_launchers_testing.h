// What the tests of the CUDA launchers share: operands that go to a GPU's memory which is the host's, and the CPU's
// launchers to compare with.
#ifndef KERNELS_REGISTRY_CUDA_LAUNCHERS_TESTING_H_
#define KERNELS_REGISTRY_CUDA_LAUNCHERS_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compiler/ir/status_macros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/testing/host_api.h"
#include "kernels/cuda/testing/host_memory.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_launchers.h"
#include "kernels/registry/cpu_weights.h"
#include "kernels/registry/cuda_launchers.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels {

inline constexpr DType kF32 = DType::kF32;
inline constexpr DType kF16 = DType::kF16;
inline constexpr DType kBF16 = DType::kBF16;
inline constexpr DType kI32 = DType::kI32;

inline cuda::Dtype FloatOf(DType dtype) {
  return dtype == kF32 ? cuda::Dtype::kF32 : dtype == kF16 ? cuda::Dtype::kF16 : cuda::Dtype::kBf16;
}

// Half a unit in the last place of one.
inline float EpsOf(DType dtype) { return dtype == kF32 ? 0x1p-24f : dtype == kF16 ? 0x1p-11f : 0x1p-8f; }

// Elements are kept as f32, those of an operand as the dtype rounds them.
struct Values {
  DType dtype = kF32;
  std::vector<int64_t> dims = {};
  std::vector<float> elements = {};
  bool absent = false;

  size_t count() const {
    size_t count = 1;
    for (const int64_t dim : dims) count *= static_cast<size_t>(dim);
    return count;
  }
  size_t bytes() const { return count() * static_cast<size_t>(DTypeBytes(dtype)); }
};

inline Values Absent() { return {.absent = true}; }

inline Values Given(DType dtype, std::vector<int64_t> dims, std::vector<float> elements) {
  return {dtype, std::move(dims), std::move(elements)};
}

// From a fixed sequence in (-1, 1), all different between operands of different seeds.
inline Values Random(DType dtype, std::vector<int64_t> dims, uint32_t seed) {
  Values values = {dtype, std::move(dims), {}};
  uint32_t state = seed * 2654435761u + 12345;
  for (size_t i = 0; i < values.count(); ++i) {
    state = state * 1664525 + 1013904223;
    const float x = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    values.elements.push_back(cuda::testing::Rounded(FloatOf(dtype), x));
  }
  return values;
}

class CudaLaunchersTest : public testing::Test {
 protected:
  explicit CudaLaunchersTest(const cuda::testing::HostApiOptions& options = {})
      : host_(std::make_unique<cuda::testing::HostApi>(options)) {
    EXPECT_EQ(RegisterCudaKernels(api(), &cuda_), absl::OkStatus());
    EXPECT_EQ(RegisterCpuKernels(&cpu_), absl::OkStatus());
  }
  ~CudaLaunchersTest() override {
    for (void* block : blocks_) api().free_device(block);
  }

  const cuda::Api& api() const { return host_->api(); }

  void* Allocate(size_t bytes) {
    void* data = nullptr;
    if (bytes > 0) {
      EXPECT_EQ(api().malloc_device(&data, bytes), cudaSuccess);
      blocks_.push_back(data);
    }
    return data;
  }

  // In memory of its own.
  TensorView Upload(const Values& values) {
    TensorView view{.dtype = values.dtype, .rank = static_cast<int>(values.dims.size())};
    std::ranges::copy(values.dims, view.dims.begin());
    if (values.absent) return TensorView();
    view.data = Allocate(values.bytes());
    for (size_t i = 0; i < values.elements.size(); ++i) {
      const float x = values.elements[i];
      if (values.dtype == kI32) {
        static_cast<int32_t*>(view.data)[i] = static_cast<int32_t>(x);
      } else if (values.dtype == DType::kI64) {
        static_cast<int64_t*>(view.data)[i] = static_cast<int64_t>(x);
      } else if (values.dtype == DType::kI8) {
        static_cast<int8_t*>(view.data)[i] = static_cast<int8_t>(x);
      } else {
        cuda::testing::Store(FloatOf(values.dtype), view.data, static_cast<int64_t>(i), x);
      }
    }
    return view;
  }

  std::vector<float> Download(const TensorView& view) const {
    std::vector<float> elements(static_cast<size_t>(view.NumElements()));
    for (size_t i = 0; i < elements.size(); ++i) {
      elements[i] = cuda::testing::Load(FloatOf(view.dtype), view.data, static_cast<int64_t>(i));
    }
    return elements;
  }

  static absl::StatusOr<std::unique_ptr<BoundKernel>> Bind(const Launchers& launchers, std::string_view id,
                                                           std::string_view op, const AttrMap& attrs,
                                                           const std::vector<TensorView>& inputs,
                                                           const std::vector<TensorView>& outputs) {
    std::vector<std::optional<DType>> input_dtypes;
    for (const TensorView& view : inputs) {
      input_dtypes.push_back(view.data != nullptr || view.rank > 0 ? std::optional(view.dtype) : std::nullopt);
    }
    std::vector<DType> output_dtypes;
    for (const TensorView& view : outputs) output_dtypes.push_back(view.dtype);
    return launchers.Bind(id, 1, {attrs, input_dtypes, output_dtypes, op});
  }

  // Working memory is exactly what the catalog says.
  absl::StatusOr<int64_t> Workspace(std::string_view id, const AttrMap& attrs, const std::vector<TensorView>& inputs) {
    std::vector<Dims> dims;
    for (const TensorView& view : inputs) dims.emplace_back(view.dims.begin(), view.dims.begin() + view.rank);
    FF_ASSIGN_OR_RETURN(const DimExpr bytes, WorkspaceBytes(*FindKernel(id, 1), attrs, dims));
    return *bytes.constant();
  }

  absl::Status Launch(std::string_view id, std::string_view op, const AttrMap& attrs,
                      const std::vector<TensorView>& inputs, const std::vector<TensorView>& outputs) {
    FF_ASSIGN_OR_RETURN(const auto kernel, Bind(cuda_, id, op, attrs, inputs, outputs));
    FF_ASSIGN_OR_RETURN(const int64_t workspace, Workspace(id, attrs, inputs));
    const auto bytes = static_cast<size_t>(workspace_bytes_.value_or(workspace));
    return kernel->Launch({.inputs = inputs,
                           .outputs = outputs,
                           .cache = cache_,
                           .rows = rows_,
                           .workspace = Allocate(bytes),
                           .workspace_bytes = bytes});
  }

  // The result on `inputs`; `over`: the operand whose memory it is written to, or -1.
  std::vector<float> Run(std::string_view id, std::string_view op, const AttrMap& attrs,
                         const std::vector<Values>& inputs, const Values& result, int over = -1) {
    std::vector<TensorView> views;
    for (const Values& input : inputs) views.push_back(Upload(input));
    TensorView y = Upload({result.dtype, result.dims});
    if (over >= 0) y.data = views[over].data;
    EXPECT_EQ(Launch(id, op, attrs, views, {y}), absl::OkStatus());
    return Download(y);
  }

  // The same on the CPU, in f32; a matrix "weight" is packed as the kernel wants it.
  std::vector<float> RunCpu(std::string_view id, std::string_view op, const AttrMap& attrs, std::vector<Values> inputs,
                            const Values& result, const CacheView* cache = nullptr) {
    const KernelSpec& spec = *FindKernel(id, 1);
    std::vector<TensorView> views;
    std::vector<std::vector<int64_t>> wide(inputs.size());  // integers, with room for both widths
    for (size_t i = 0; i < inputs.size(); ++i) {
      Values& input = inputs[i];
      TensorView view{.dtype = input.dtype, .rank = static_cast<int>(input.dims.size())};
      std::ranges::copy(input.dims, view.dims.begin());
      if (input.dtype == kI32 || input.dtype == DType::kI64) {
        wide[i].resize(input.count());
        for (size_t j = 0; j < input.count(); ++j) {
          const auto value = static_cast<int64_t>(input.elements[j]);
          const auto narrow = static_cast<int32_t>(value);
          if (input.dtype == kI32) std::memcpy(reinterpret_cast<char*>(wide[i].data()) + 4 * j, &narrow, 4);
          if (input.dtype == DType::kI64) wide[i][j] = value;
        }
        view.data = wide[i].data();
      } else if (!input.absent) {
        view.dtype = kF32;
        view.data = input.elements.data();
        const std::string_view layout = WeightLayout(spec, static_cast<int>(i), kF32);
        if (layout != kRowMajor) {
          const auto bytes = static_cast<size_t>(PackedBytes(layout, input.dims, kF32).value());
          auto& packed = packed_.emplace_back(new (std::align_val_t{64}) std::byte[bytes], AlignedDelete());
          EXPECT_EQ(PackCpuWeight(layout, input.dims, kF32,
                                  {reinterpret_cast<const std::byte*>(view.data), input.count() * 4},
                                  {packed.get(), bytes}, &pool_),
                    absl::OkStatus());
          view.data = packed.get();
        }
      }
      views.push_back(view);
    }
    std::vector<float> y(result.count());
    TensorView out{.data = y.data(), .dtype = kF32, .rank = static_cast<int>(result.dims.size())};
    std::ranges::copy(result.dims, out.dims.begin());
    std::vector<float> workspace(static_cast<size_t>(Workspace(id, attrs, views).value()) / 4 + 1);
    const auto kernel = Bind(cpu_, id, op, attrs, views, {out});
    EXPECT_EQ(kernel.status(), absl::OkStatus());
    if (kernel.ok()) {
      EXPECT_EQ((*kernel)->Launch({.inputs = views,
                                   .outputs = {&out, 1},
                                   .cache = cache,
                                   .workspace = workspace.data(),
                                   .workspace_bytes = workspace.size() * 4,
                                   .device = &pool_}),
                absl::OkStatus());
    }
    return y;
  }

  static void ExpectClose(const std::vector<float>& got, const std::vector<float>& want, float relative,
                          float absolute) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], absolute + relative * std::fabs(want[i])) << "element " << i;
    }
  }

  void ExpectRefused(std::string_view id, std::string_view op, const AttrMap& attrs, const std::vector<Values>& inputs,
                     const std::vector<Values>& outputs, const std::string& message,
                     absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    SCOPED_TRACE(testing::Message() << id << ": " << message);
    std::vector<TensorView> in, out;
    for (const Values& input : inputs) in.push_back(Upload(input));
    for (const Values& output : outputs) out.push_back(Upload({output.dtype, output.dims}));
    host_->TakeKernels();
    const absl::Status status = Launch(id, op, attrs, in, out);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(message));
    EXPECT_THAT(std::string(status.message()), testing::StartsWith(std::string(id)));
    EXPECT_THAT(host_->TakeKernels(), testing::IsEmpty());
  }

  std::unique_ptr<cuda::testing::HostApi> host_;
  Launchers cuda_, cpu_;
  cpu::ThreadPool pool_{2};
  const CacheView* cache_ = nullptr;
  StepRows rows_;
  std::optional<int64_t> workspace_bytes_;  // instead of what the catalog says

 private:
  struct AlignedDelete {
    void operator()(std::byte* bytes) const { ::operator delete[](bytes, std::align_val_t{64}); }
  };
  std::vector<void*> blocks_;
  std::vector<std::unique_ptr<std::byte[], AlignedDelete>> packed_;
};

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_CUDA_LAUNCHERS_TESTING_H_
