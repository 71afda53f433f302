// The launchers of CUDA kernels, over a table of functions of the host, against the CPU's.
#include "kernels/registry/cuda_graph_launchers.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/ir/dim_expr.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/api.h"
#include "kernels/cuda/testing/host_ops.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cpu_launchers.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels {
namespace {

using ::testing::HasSubstr;

// A tensor of small numbers, halves among the floats, from a fixed sequence.
struct Operand {
  DType dtype;
  std::vector<int64_t> dims;
  int64_t least = -4, most = 4;
};

class CudaGraphLaunchersTest : public ::testing::Test {
 protected:
  CudaGraphLaunchersTest() {
    cuda::host::SetGraphOps(&api_);
    api_.get_last_error = [] { return cudaSuccess; };
    api_.get_error_string = [](cudaError_t) { return "a CUDA error"; };
    api_.softmax = [](const cuda::SoftmaxArgs& args, cudaStream_t stream) {
      return cuda::host::SoftmaxColumns(
          {.dtype = args.dtype, .x = args.x, .y = args.y, .outer = args.rows, .axis = args.columns, .inner = 1},
          stream);
    };
    api_.fused_attention = [](const cuda::AttentionArgs&, cudaStream_t) { return cudaErrorNotSupported; };
    EXPECT_EQ(RegisterCpuKernels(&cpu_), absl::OkStatus());
    EXPECT_EQ(RegisterCudaGraphKernels(api_, &cuda_), absl::OkStatus());
  }

  TensorView Make(const Operand& operand) {
    const auto elements = static_cast<size_t>(NumElements(operand.dims));
    auto& memory = memory_.emplace_back(std::make_unique<std::vector<char>>(elements * 8 + 8));
    for (size_t i = 0; i < elements; ++i) {
      seed_ = seed_ * 1664525 + 1013904223;
      const int64_t value = operand.least + static_cast<int64_t>(seed_ >> 8) % (operand.most - operand.least + 1);
      const auto put = [&](auto x) { std::memcpy(memory->data() + i * sizeof(x), &x, sizeof(x)); };
      switch (operand.dtype) {
        case DType::kF32:
          put(static_cast<float>(value) + ((seed_ & 64) != 0 ? 0.5f : 0.0f));
          break;
        case DType::kI32:
          put(static_cast<int32_t>(value));
          break;
        case DType::kI64:
          put(value);
          break;
        case DType::kBool:
          put(static_cast<uint8_t>(value & 1));
          break;
        default:
          put(static_cast<int8_t>(value));
      }
    }
    return View(memory->data(), operand.dtype, operand.dims);
  }
  static TensorView View(void* data, DType dtype, const std::vector<int64_t>& dims) {
    TensorView view{.data = data, .dtype = dtype, .rank = static_cast<int>(dims.size())};
    std::ranges::copy(dims, view.dims.begin());
    return view;
  }
  static int64_t NumElements(const std::vector<int64_t>& dims) {
    int64_t count = 1;
    for (int64_t dim : dims) count *= dim;
    return count;
  }

  absl::Status Launch(std::string_view device, std::string_view op, const AttrMap& attrs,
                      const std::vector<TensorView>& inputs, const TensorView& output) {
    std::vector<std::optional<DType>> dtypes;
    for (const TensorView& input : inputs) dtypes.push_back(input.dtype);
    for (const KernelSpec* spec : KernelsForOp(op, device)) {
      if (!inputs.empty() && !AcceptsInput(*spec, 0, inputs[0].dtype)) continue;
      auto kernel = (device == "cpu" ? cpu_ : cuda_)
                        .Bind(spec->id, spec->version,
                              {.attrs = attrs, .input_dtypes = dtypes, .output_dtypes = {&output.dtype, 1}, .op = op});
      if (!kernel.ok()) return kernel.status();
      return (*kernel)->Launch({.inputs = inputs,
                                .outputs = {&output, 1},
                                .device = device == "cpu" ? static_cast<void*>(&pool_) : nullptr});
    }
    return absl::NotFoundError(absl::StrCat(device, " has no ", op));
  }

  // Runs the op on both; floats may differ by `ulps` units of the last place at the size of one.
  void ExpectSame(std::string_view op, const AttrMap& attrs, const std::vector<Operand>& operands,
                  const Operand& result, double ulps = 0) {
    SCOPED_TRACE(op);
    std::vector<TensorView> inputs;
    for (const Operand& operand : operands) inputs.push_back(Make(operand));
    const size_t bytes = static_cast<size_t>(NumElements(result.dims) * DTypeBytes(result.dtype));
    std::vector<char> want(bytes + 8, 0x55), got(bytes + 8, 0x55);
    ASSERT_EQ(Launch("cpu", op, attrs, inputs, View(want.data(), result.dtype, result.dims)), absl::OkStatus());
    ASSERT_EQ(Launch("cuda", op, attrs, inputs, View(got.data(), result.dtype, result.dims)), absl::OkStatus());
    if (ulps == 0) {
      EXPECT_EQ(got, want);
      return;
    }
    ASSERT_EQ(result.dtype, DType::kF32);
    for (size_t i = 0; i < bytes / sizeof(float); ++i) {
      float a, b;
      std::memcpy(&a, got.data() + i * sizeof(float), sizeof(a));
      std::memcpy(&b, want.data() + i * sizeof(float), sizeof(b));
      if (std::isnan(b)) {
        EXPECT_TRUE(std::isnan(a)) << i;
      } else if (a != b) {
        EXPECT_NEAR(a, b, ulps * std::numeric_limits<float>::epsilon() * std::max(1.0f, std::fabs(b))) << i;
      }
    }
  }

  cuda::Api api_;
  Launchers cpu_, cuda_;
  cpu::ThreadPool pool_{1};
  std::vector<std::unique_ptr<std::vector<char>>> memory_;
  uint32_t seed_ = 1;
};

constexpr DType kF32 = DType::kF32;
constexpr DType kI32 = DType::kI32;
constexpr DType kI64 = DType::kI64;
constexpr DType kBool = DType::kBool;

// The CPU's ops that are launched elsewhere: cuda_launchers.h.
TEST_F(CudaGraphLaunchersTest, WithTheStepGraphsKernelsEveryOpOfTheCpuHasOne) {
  for (const KernelSpec& spec : Catalog()) {
    if (spec.device == "cpu") {
      for (const std::string_view op : spec.ops) EXPECT_FALSE(KernelsForOp(op, "cuda").empty()) << op;
    }
  }
}

TEST_F(CudaGraphLaunchersTest, ElementwiseOpsAreTheCpus) {
  for (const std::string_view op :
       {"neg", "abs", "exp", "sqrt", "rsqrt", "reciprocal", "tanh", "erf", "sigmoid", "sin", "cos", "relu", "silu"}) {
    ExpectSame(op, {}, {{kF32, {3, 5}}}, {kF32, {3, 5}}, /*ulps=*/8);
  }
  ExpectSame("gelu", {{"approximate", "none"}}, {{kF32, {31}}}, {kF32, {31}}, /*ulps=*/16);
  ExpectSame("gelu", {{"approximate", "tanh"}}, {{kF32, {31}}}, {kF32, {31}}, /*ulps=*/30);
  for (const std::string_view op : {"add", "sub", "mul", "div", "maximum", "minimum"}) {
    ExpectSame(op, {}, {{kF32, {2, 1, 5}}, {kF32, {3, 1}}}, {kF32, {2, 3, 5}});
  }
  ExpectSame("pow", {}, {{kF32, {7}, 1, 4}, {kF32, {1}}}, {kF32, {7}}, /*ulps=*/4);
  for (const std::string_view op : {"add", "sub", "mul", "maximum", "minimum"}) {
    ExpectSame(op, {}, {{kI32, {4, 3}}, {kI32, {3}}}, {kI32, {4, 3}});
    ExpectSame(op, {}, {{kI64, {}}, {kI64, {3}}}, {kI64, {3}});
  }
  for (const std::string_view op : {"eq", "ne", "lt", "le", "gt", "ge"}) {
    ExpectSame(op, {}, {{kF32, {4, 9}}, {kF32, {9}}}, {kBool, {4, 9}});
    ExpectSame(op, {}, {{kI64, {4, 1}}, {kI64, {9}}}, {kBool, {4, 9}});
    ExpectSame(op, {}, {{kBool, {36}}, {kBool, {36}}}, {kBool, {36}});
  }
  ExpectSame("logical_and", {}, {{kBool, {4, 9}}, {kBool, {9}}}, {kBool, {4, 9}});
  ExpectSame("logical_or", {}, {{kBool, {4, 9}}, {kBool, {9}}}, {kBool, {4, 9}});
  ExpectSame("logical_not", {}, {{kBool, {9}}}, {kBool, {9}});
  ExpectSame("where", {}, {{kBool, {4, 1}}, {kI64, {9}}, {kI64, {}}}, {kI64, {4, 9}});
  for (const DType to : {kF32, DType::kF16, DType::kBF16, DType::kI8, kI32, kI64, kBool}) {
    for (const DType from : {kF32, DType::kI8, kI32, kI64, kBool}) {
      ExpectSame("cast", {{"dtype", to}}, {{from, {23}, -300, 300}}, {to, {23}});
    }
  }
}

TEST_F(CudaGraphLaunchersTest, CreationMovesAndLookupsAreTheCpus) {
  ExpectSame("constant", {{"value", 2.5}}, {}, {kF32, {2, 3}});
  ExpectSame("constant", {{"value", 2.5}}, {}, {DType::kBF16, {5}});
  ExpectSame("constant", {{"value", -3.0}}, {}, {kI64, {5}});
  ExpectSame("constant", {{"value", 1.0}}, {}, {kBool, {5}});
  for (const DType dtype : {kF32, kI32, kI64}) ExpectSame("iota", {{"axis", int64_t{1}}}, {}, {dtype, {2, 5, 3}});
  ExpectSame("transpose", {{"perm", std::vector<int64_t>{2, 0, 1}}}, {{kF32, {3, 4, 5}}}, {kF32, {5, 3, 4}});
  ExpectSame("expand", {}, {{kI64, {3, 1}}}, {kI64, {2, 3, 4}});
  ExpectSame("slice", {{"axis", int64_t{1}}, {"start", DimExpr(1)}, {"step", int64_t{2}}}, {{kF32, {3, 8, 2}}},
             {kF32, {3, 3, 2}});
  ExpectSame("slice", {{"axis", int64_t{0}}, {"start", DimExpr(1)}, {"step", int64_t{1}}}, {{kF32, {3}}}, {kF32, {0}});
  ExpectSame("concat", {{"axis", int64_t{1}}}, {{kBool, {3, 2, 2}}, {kBool, {3, 0, 2}}, {kBool, {3, 5, 2}}},
             {kBool, {3, 7, 2}});
  ExpectSame("index", {}, {{kF32, {5, 4, 3}}, {kI64, {2, 1}, -5, 4}, {kI32, {6}, -4, 3}}, {kF32, {2, 6, 3}});
}

TEST_F(CudaGraphLaunchersTest, AxesAndContractionsAreTheCpus) {
  for (const DType dtype : {kF32, kI32, kI64}) {
    ExpectSame("cumsum", {{"axis", int64_t{1}}}, {{dtype, {2, 7, 3}}}, {dtype, {2, 7, 3}});
  }
  for (const std::string_view op : {"reduce_sum", "reduce_mean", "reduce_max"}) {
    for (const std::vector<int64_t>& axes : std::vector<std::vector<int64_t>>{{2}, {0}, {0, 2}, {0, 1, 2}, {}}) {
      std::vector<int64_t> kept;
      for (int64_t i = 0; i < 3; ++i) {
        if (std::ranges::find(axes, i) == axes.end()) kept.push_back(std::vector<int64_t>{4, 5, 6}[i]);
      }
      ExpectSame(op, {{"axes", axes}}, {{kF32, {4, 5, 6}}}, {kF32, kept}, /*ulps=*/8);
    }
  }
  for (int64_t axis = 0; axis < 3; ++axis) {
    ExpectSame("softmax", {{"axis", axis}}, {{kF32, {3, 4, 5}}}, {kF32, {3, 4, 5}}, /*ulps=*/16);
  }
  ExpectSame("matmul", {}, {{kF32, {2, 1, 3, 4}}, {kF32, {5, 4, 6}}}, {kF32, {2, 5, 3, 6}}, /*ulps=*/8);
  ExpectSame("rope", {}, {{kF32, {2, 3, 5, 6}}, {kF32, {5, 6}}, {kF32, {2, 1, 5, 6}}}, {kF32, {2, 3, 5, 6}}, 16);
  const AttrMap full = {{"causal", false}, {"scale", 0.25}, {"window", int64_t{0}}};
  const AttrMap window = {{"causal", true}, {"scale", 0.25}, {"window", int64_t{2}}};
  const Operand q = {kF32, {2, 4, 3, 8}}, k = {kF32, {2, 2, 5, 8}}, v = {kF32, {2, 2, 5, 6}}, y = {kF32, {2, 4, 3, 6}};
  ExpectSame("attention", full, {q, k, v}, y, /*ulps=*/64);
  ExpectSame("attention", window, {q, k, v}, y, /*ulps=*/64);
  ExpectSame("attention", full, {q, k, v, {kBool, {2, 1, 3, 5}}}, y, /*ulps=*/64);
  ExpectSame("attention", window, {q, k, v, {kF32, {3, 5}}}, y, /*ulps=*/64);
}

TEST_F(CudaGraphLaunchersTest, AttentionWithoutAMaskGoesToTheFusedKernelWhereThatTakesIt) {
  static int calls;
  calls = 0;
  api_.fused_attention = [](const cuda::AttentionArgs& args, cudaStream_t) {
    EXPECT_EQ(args.q.token_stride, 8);
    EXPECT_EQ(args.k.head_stride, 5 * 8);
    EXPECT_EQ(args.k.batch_stride, 2 * 5 * 8);
    EXPECT_EQ(args.kv_heads, 2);
    ++calls;
    return cudaSuccess;
  };
  const AttrMap causal = {{"causal", true}, {"scale", 0.25}, {"window", int64_t{0}}};
  const std::vector<TensorView> inputs = {Make({kF32, {2, 4, 3, 8}}), Make({kF32, {2, 2, 5, 8}}),
                                          Make({kF32, {2, 2, 5, 8}})};
  EXPECT_EQ(Launch("cuda", "attention", causal, inputs, Make({kF32, {2, 4, 3, 8}})), absl::OkStatus());
  EXPECT_EQ(calls, 1);
  // More queries than keys, which it has no meaning for.
  EXPECT_EQ(Launch("cuda", "attention", causal, {Make({kF32, {2, 4, 6, 8}}), inputs[1], inputs[2]},
                   Make({kF32, {2, 4, 6, 8}})),
            absl::OkStatus());
  EXPECT_EQ(calls, 1);
}

TEST_F(CudaGraphLaunchersTest, AnIndexOutOfRangeGivesNaN) {
  Operand far = {kI64, {3}, 5, 9};
  const TensorView y = Make({kF32, {3, 2}});
  EXPECT_EQ(Launch("cuda", "index", {}, {Make({kF32, {5, 2}}), Make(far)}, y), absl::OkStatus());
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(std::isnan(static_cast<const float*>(y.data)[i]));
}

TEST_F(CudaGraphLaunchersTest, RefusesWhatTheOpDoesNotMean) {
  const TensorView x = Make({kF32, {2, 3}}), y = Make({kF32, {2, 3}});
  EXPECT_THAT(std::string(Launch("cuda", "exp", {}, {x}, Make({kF32, {3, 2}})).message()),
              HasSubstr("result is f32[3, 2], expected [2, 3]"));
  EXPECT_THAT(std::string(Launch("cuda", "add", {}, {x, Make({kF32, {2}})}, y).message()),
              HasSubstr("dims that broadcast to f32[2, 3]"));
  EXPECT_EQ(Launch("cuda", "add", {}, {x, Make({DType::kF16, {3}})}, y).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Launch("cuda", "softmax", {{"axis", int64_t{2}}}, {x}, y).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Launch("cuda", "cast", {{"dtype", DType::kI32}}, {x}, y).code(), absl::StatusCode::kInvalidArgument);
  api_.unary = [](const cuda::UnaryArgs&, cudaStream_t) { return cudaErrorNotSupported; };
  EXPECT_EQ(Launch("cuda", "exp", {}, {x}, y).code(), absl::StatusCode::kUnimplemented);
  api_.unary = [](const cuda::UnaryArgs&, cudaStream_t) { return cudaErrorIllegalAddress; };
  EXPECT_EQ(Launch("cuda", "exp", {}, {x}, y), absl::InternalError("cuda.unary: CUDA: a CUDA error"));
}

}  // namespace
}  // namespace flashflow::kernels
