// Lookups, norms and products.
#include "kernels/registry/cuda_launchers.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/catalog.h"
#include "kernels/registry/cuda_graph_launchers.h"
#include "kernels/registry/cuda_launchers_testing.h"

namespace flashflow::kernels {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::IsNan;

const DType kFloats[] = {kF32, kF16, kBF16};

TEST_F(CudaLaunchersTest, EveryRowOfTheCatalogIsBound) {
  ASSERT_EQ(RegisterCudaGraphKernels(api(), &cuda_), absl::OkStatus());
  for (const KernelSpec& spec : Catalog()) {
    if (spec.device != "cuda") continue;
    EXPECT_TRUE(cuda_.Has(spec.id, spec.version)) << spec.id;
  }
  EXPECT_EQ(RegisterCudaKernels(api(), &cuda_).code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CudaLaunchersTest, Embedding) {
  for (const DType table : kFloats) {
    for (const DType ids : {kI32, DType::kI64}) {
      for (const DType out : {kF32, table}) {
        const std::vector<Values> inputs = {Random(table, {5, 3}, 1), Given(ids, {2, 2}, {4, 0, 1, 4})};
        const Values result = {out, {2, 2, 3}};
        EXPECT_EQ(Run("cuda.embedding", "embedding", {}, inputs, result),
                  RunCpu("cpu.embedding", "embedding", {}, inputs, result));
      }
    }
  }
  EXPECT_THAT(
      Run("cuda.embedding", "embedding", {}, {Given(kF32, {1, 1}, {7}), Given(kI32, {3}, {0, 1, -1})}, {kF32, {3, 1}}),
      ElementsAre(7, IsNan(), IsNan()))
      << "an id that the table has not";
}

TEST_F(CudaLaunchersTest, GatherRows) {
  const std::vector<Values> inputs = {Random(kBF16, {4, 2, 3}, 1), Given(kI32, {3}, {3, 0, 3})};
  EXPECT_EQ(Run("cuda.gather_rows", "gather_rows", {}, inputs, {kBF16, {3, 2, 3}}),
            RunCpu("cpu.gather_rows", "gather_rows", {}, inputs, {kF32, {3, 2, 3}}));
}

TEST_F(CudaLaunchersTest, Norms) {
  for (const DType dtype : kFloats) {
    const Values x = Random(dtype, {2, 3, 16}, 1), weight = Random(kF32, {16}, 2), bias = Random(kF32, {16}, 3);
    const Values result = {dtype, {2, 3, 16}};
    const AttrMap eps = {{"eps", 0.25}};
    const auto check = [&](const std::string& op, const std::vector<Values>& inputs) {
      const std::vector<float> want = RunCpu("cpu." + op, op, eps, inputs, result);
      const std::vector<float> got = Run("cuda." + op, op, eps, inputs, result);
      ExpectClose(got, want, EpsOf(dtype), 1e-5f);
      EXPECT_EQ(Run("cuda." + op, op, eps, inputs, result, /*over=*/0), got);
    };
    check("layer_norm", {x, weight, bias});
    check("layer_norm", {x, weight});
    check("rms_norm", {x, weight});
  }
}

TEST_F(CudaLaunchersTest, AddNorm) {
  for (const DType dtype : kFloats) {
    const AttrMap attrs = {{"norm", "layer_norm"}, {"eps", 0.25}};
    const Values x = Random(dtype, {3, 16}, 1), residual = Random(dtype, {3, 16}, 2), result = {dtype, {3, 16}};
    const Values weight = Random(kF32, {16}, 3), bias = Random(kF32, {16}, 4);
    std::vector<TensorView> inputs;
    for (const Values& values : {x, residual, weight, bias}) inputs.push_back(Upload(values));
    const TensorView sum = Upload(result), norm = Upload(result);
    ASSERT_EQ(Launch("cuda.add_norm", "add_norm", attrs, inputs, {sum, norm}), absl::OkStatus());
    Values h = {dtype, {3, 16}, Download(sum)};
    for (size_t i = 0; i < h.count(); ++i) {
      EXPECT_EQ(h.elements[i], cuda::testing::Rounded(FloatOf(dtype), x.elements[i] + residual.elements[i]));
    }
    const std::vector<float> got = Download(norm);
    ExpectClose(got, RunCpu("cpu.layer_norm", "layer_norm", {{"eps", 0.25}}, {h, weight, bias}, result), EpsOf(dtype),
                1e-5f);
    // Each result over either operand.
    ASSERT_EQ(Launch("cuda.add_norm", "add_norm", attrs, inputs, {inputs[1], inputs[0]}), absl::OkStatus());
    EXPECT_EQ(Download(inputs[1]), h.elements);
    EXPECT_EQ(Download(inputs[0]), got);
  }
}

TEST_F(CudaLaunchersTest, Linear) {
  for (const DType dtype : kFloats) {
    for (const DType out : {dtype, kF32}) {
      const Values x = Random(dtype, {2, 3, 16}, 1), weight = Random(dtype, {5, 16}, 2), result = {out, {2, 3, 5}};
      const Values bias = Random(kF32, {5}, 3);
      for (const std::vector<Values>& inputs : {std::vector<Values>{x, weight, bias}, {x, weight}}) {
        const std::vector<float> want = RunCpu("cpu.linear.row_major", "linear", {}, inputs, result);
        ExpectClose(Run("cuda.linear", "linear", {}, inputs, result), want, EpsOf(out), 1e-5f);
        ExpectClose(Run("cuda.linear.invariant", "linear", {}, inputs, result), want, EpsOf(out), 1e-5f);
      }
    }
  }
}

AttrMap FusedAttrs(const std::string& norm, const std::string& activation, bool gated) {
  return {{"norm", norm}, {"eps", 0.25}, {"activation", activation}, {"gated", gated}};
}

TEST_F(CudaLaunchersTest, FusedLinear) {
  constexpr int64_t kRows = 3, kK = 16, kN = 6;
  for (const DType dtype : kFloats) {
    const Values x = Random(dtype, {kRows, kK}, 1), bias = Random(kF32, {kN}, 3);
    const Values weight = Random(dtype, {kN, kK}, 2), gamma = Random(kF32, {kK}, 5), beta = Random(kF32, {kK}, 6);
    for (const std::string norm : {"none", "layer_norm", "rms_norm"}) {
      // A normalized element, at most sqrt(k) and beta, is rounded once more than on the CPU; an activation is steep by
      // at most 1.13.
      const float product = norm == "none" ? 0 : EpsOf(dtype) * kK * (std::sqrt(kK) + 1) * 1.13f;
      for (const std::string activation : {"none", "gelu", "gelu_tanh", "silu", "relu"}) {
        for (const bool gated : {false, true}) {
          const int64_t n = gated ? kN / 2 : kN;
          const Values residual = Random(dtype, {kRows, n}, 4), result = {dtype, {kRows, n}};
          for (const Values& r : {residual, Absent()}) {
            if (activation == "relu" && (gated || !r.absent)) continue;  // not computed
            SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " " << norm << " " << activation << " " << gated);
            std::vector<Values> inputs = {x, weight, bias, r};
            if (norm != "none") inputs.push_back(gamma);
            if (norm == "layer_norm") inputs.push_back(beta);
            const AttrMap attrs = FusedAttrs(norm, activation, gated);
            const std::vector<float> want =
                RunCpu("cpu.fused_linear.panel16", "fused_linear", attrs, inputs, {kF32, {kRows, n}});
            // The other factor of a gated layer is at most k (sqrt(k) + 1) + 1; here it is below 8.
            const float absolute = 1e-5f + product * (gated ? 2 * 8 : 1);
            const std::vector<float> got = Run("cuda.fused_linear", "fused_linear", attrs, inputs, result);
            ExpectClose(got, want, EpsOf(dtype), absolute);
            ExpectClose(Run("cuda.fused_linear.invariant", "fused_linear", attrs, inputs, result), want, EpsOf(dtype),
                        absolute);
            if (!r.absent) {
              EXPECT_EQ(Run("cuda.fused_linear", "fused_linear", attrs, inputs, result, /*over=*/3), got);
            }
          }
        }
      }
    }
  }
}

// Integers of any size below 128, the first of a row 127: they are their own codes, at a scale of one.
Values Codes(DType dtype, std::vector<int64_t> dims, uint32_t seed) {
  Values values = Random(kF32, std::move(dims), seed);
  values.dtype = dtype;
  for (size_t i = 0; i < values.elements.size(); ++i) {
    float& x = values.elements[i];
    x = i % static_cast<size_t>(values.dims.back()) == 0 ? 127.0f : std::nearbyint(x * 100);
  }
  return values;
}

TEST_F(CudaLaunchersTest, FusedLinearOfCodes) {
  constexpr int64_t kRows = 3, kK = 32, kN = 6;
  const Values weight = Codes(DType::kI8, {kN, kK}, 2), scale = Random(kF32, {kN}, 3), bias = Random(kF32, {kN}, 4);
  const Values residual = Random(kBF16, {kRows, kN}, 5), gamma = Random(kF32, {kK}, 6);
  AttrMap attrs = FusedAttrs("none", "none", false);
  attrs["clip"] = 1000.0;
  for (const DType dtype : {kF32, kBF16}) {
    const Values x = Codes(dtype, {kRows, kK}, 1);
    std::vector<float> want;
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < kN; ++j) {
        float sum = 0;
        for (int64_t k = 0; k < kK; ++k) sum += x.elements[i * kK + k] * weight.elements[j * kK + k];
        const float product = sum * scale.elements[j];
        want.push_back(product + bias.elements[j]);
      }
    }
    const std::vector<Values> inputs = {x, weight, bias, Absent(), Absent(), Absent(), scale};
    for (const char* id : {"cuda.fused_linear.int8", "cuda.fused_linear.int8.invariant"}) {
      EXPECT_EQ(Run(id, "fused_linear", attrs, inputs, {kF32, {kRows, kN}}), want);
      EXPECT_THAT(host_->TakeKernels(), testing::SizeIs(dtype == kBF16 ? 1 : 2)) << "codes of f32, then the product";
    }
    std::vector<Values> with_residual = inputs;
    with_residual[3] = residual;
    for (size_t i = 0; i < want.size(); ++i) want[i] += residual.elements[i];
    ExpectClose(Run("cuda.fused_linear.int8", "fused_linear", attrs, with_residual, {kBF16, {kRows, kN}}), want,
                EpsOf(kBF16), 0);
    ExpectRefused("cuda.fused_linear.int8", "fused_linear", attrs, with_residual, {{kF32, {kRows, kN}}},
                  "adds a residual to products of codes in f32", absl::StatusCode::kUnimplemented);
  }
  // A norm before the codes, whose row is not rounded in between, in one launch; and what is clipped.
  const Values x = Random(kBF16, {kRows, kK}, 7), result = {kF32, {kRows, kN}};
  AttrMap normed = FusedAttrs("rms_norm", "none", false);
  normed["clip"] = 0.75;
  const std::vector<Values> inputs = {x, weight, bias, Absent(), gamma, Absent(), scale};
  host_->TakeKernels();
  const std::vector<float> got = Run("cuda.fused_linear.int8", "fused_linear", normed, inputs, result);
  EXPECT_THAT(host_->TakeKernels(), testing::ElementsAre("gemm"));
  // More rows than a product normalizes, and a gated product without a norm: one more launch, the same numbers.
  Values many = Random(kBF16, {9, kK}, 7);
  std::copy(x.elements.begin(), x.elements.end(), many.elements.begin());
  const std::vector<float> all = Run("cuda.fused_linear.int8", "fused_linear", normed,
                                     {many, weight, bias, Absent(), gamma, Absent(), scale}, {kF32, {9, kN}});
  EXPECT_THAT(host_->TakeKernels(), testing::ElementsAre("norm", "gemm"));
  EXPECT_EQ(std::vector<float>(all.begin(), all.begin() + kRows * kN), got);
  AttrMap gated = FusedAttrs("none", "silu", true);
  gated["clip"] = 0.75;
  Run("cuda.fused_linear.int8", "fused_linear", gated, {x, weight, bias, Absent(), Absent(), Absent(), scale},
      {kF32, {kRows, kN / 2}});
  EXPECT_THAT(host_->TakeKernels(), testing::ElementsAre("quantize", "gemm"));
  normed["clip"] = 1e9;
  EXPECT_NE(Run("cuda.fused_linear.int8", "fused_linear", normed, inputs, result), got);

  ExpectRefused("cuda.fused_linear.int8", "fused_linear", normed,
                {x, weight, bias, Absent(), Absent(), Absent(), scale}, {result}, "a norm without weights",
                absl::StatusCode::kUnimplemented);
  ExpectRefused("cuda.fused_linear.int8", "fused_linear", attrs, {x, weight, bias, Absent(), Absent(), Absent(), gamma},
                {result}, "weight_scale is f32[32], expected [6]");
  ExpectRefused(
      "cuda.fused_linear.int8", "fused_linear", attrs,
      {Random(kBF16, {kRows, 24}, 1), Codes(DType::kI8, {kN, 24}, 2), bias, Absent(), Absent(), Absent(), scale},
      {result}, "a multiple of 16", absl::StatusCode::kUnimplemented);
  attrs["clip"] = 0.0;
  ExpectRefused("cuda.fused_linear.int8", "fused_linear", attrs, {x, weight, bias, Absent(), Absent(), Absent(), scale},
                {result}, "clip is 0");
}

TEST_F(CudaLaunchersTest, EmbeddingOfCodes) {
  const Values table = Codes(DType::kI8, {3, 4}, 1), scale = Random(kF32, {3}, 2);
  const Values ids = Given(kI32, {2}, {2, 0});
  const AttrMap attrs = {{"dtype", kF32}};
  std::vector<float> want;
  for (const int row : {2, 0}) {
    for (int c = 0; c < 4; ++c) want.push_back(table.elements[row * 4 + c] * scale.elements[row]);
  }
  EXPECT_EQ(Run("cuda.embedding", "embedding", attrs, {table, ids, scale}, {kF32, {2, 4}}), want);
  ExpectRefused("cuda.embedding", "embedding", attrs, {table, ids}, {{kF32, {2, 4}}}, "scales beside its codes");
  ExpectRefused("cuda.embedding", "embedding", attrs, {table, ids, Random(kF32, {2}, 2)}, {{kF32, {2, 4}}},
                "scale is f32[2], expected [3]");
}

TEST_F(CudaLaunchersTest, ResidualsOfFloatResultsAreOfTheOperandsType) {
  const Values x = Random(kBF16, {2, 8}, 1), weight = Random(kBF16, {4, 8}, 2), result = {kF32, {2, 4}};
  const AttrMap attrs = FusedAttrs("none", "none", false);
  const std::vector<Values> inputs = {x, weight, Absent(), Random(kBF16, {2, 4}, 3)};
  ExpectClose(Run("cuda.fused_linear", "fused_linear", attrs, inputs, result),
              RunCpu("cpu.fused_linear.panel16", "fused_linear", attrs, inputs, result), 0, 1e-5f);
  ExpectRefused("cuda.fused_linear", "fused_linear", attrs, {x, weight, Absent(), Random(kF32, {2, 4}, 3)}, {result},
                "the residual and x differ in dtype", absl::StatusCode::kUnimplemented);
}

// The same kernel at any number of rows, 64 at a time; where it does not take the product, another one throughout.
TEST_F(CudaLaunchersTest, InvariantProductsAlwaysTakeOneKernel) {
  const auto kernels = [&](DType dtype, int64_t m, bool gated) {
    const AttrMap attrs = FusedAttrs("none", "silu", gated);
    const int64_t n = gated ? 2 : 4;
    const std::vector<Values> inputs = {Random(dtype, {m, 8}, 1), Random(dtype, {4, 8}, 2), Random(kF32, {4}, 3),
                                        Random(dtype, {m, n}, 4)};
    host_->TakeKernels();
    const std::vector<float> got = Run("cuda.fused_linear.invariant", "fused_linear", attrs, inputs, {dtype, {m, n}});
    std::vector<std::string> run = host_->TakeKernels();
    EXPECT_EQ(got, Run("cuda.fused_linear", "fused_linear", attrs, inputs, {dtype, {m, n}}));
    EXPECT_THAT(host_->TakeKernels(), ElementsAre("gemm"));
    return run;
  };
  EXPECT_THAT(kernels(kBF16, 1, false), ElementsAre("gemm_rows_sm90"));
  EXPECT_THAT(kernels(kF16, 64, false), ElementsAre("gemm_rows_sm90"));
  EXPECT_THAT(kernels(kBF16, 130, false), ElementsAre("gemm_rows_sm90"));
  EXPECT_THAT(kernels(kF32, 1, false), ElementsAre("gemm_portable"));
  EXPECT_THAT(kernels(kF32, 65, false), ElementsAre("gemm_portable"));
  EXPECT_THAT(kernels(kBF16, 1, true), ElementsAre("gemm_rows_sm90"));
  EXPECT_THAT(kernels(kBF16, 130, true), ElementsAre("gemm_rows_sm90"));
}

TEST_F(CudaLaunchersTest, ProductsNormalizeFewRowsThemselves) {
  const auto kernels = [&](DType dtype, int64_t m, int64_t k, const Values& gamma) {
    const std::vector<Values> inputs = {Random(dtype, {m, k}, 1), Random(dtype, {4, k}, 2), Absent(), Absent(), gamma};
    Run("cuda.fused_linear", "fused_linear", FusedAttrs("rms_norm", "none", false), inputs, {dtype, {m, 4}});
    return host_->TakeKernels();
  };
  EXPECT_THAT(kernels(kBF16, 8, 8, Random(kF32, {8}, 3)), ElementsAre("gemm"));
  EXPECT_THAT(kernels(kBF16, 8, 8, Absent()), ElementsAre("norm", "gemm"));
  EXPECT_THAT(kernels(kBF16, 9, 8, Random(kF32, {8}, 3)), ElementsAre("norm", "gemm"));
  EXPECT_THAT(kernels(kBF16, 1, 2056, Random(kF32, {2056}, 3)), ElementsAre("norm", "gemm"));
  EXPECT_THAT(kernels(kF32, 1, 8, Random(kF32, {8}, 3)), ElementsAre("norm", "gemm"));
}

class CudaLaunchersOnSm80Test : public CudaLaunchersTest {
 protected:
  CudaLaunchersOnSm80Test() : CudaLaunchersTest({.compute_capability = 80}) {}
};

TEST_F(CudaLaunchersOnSm80Test, InvariantProductsTakeThePortableKernel) {
  for (const int64_t m : {1, 130}) {
    const std::vector<Values> inputs = {Random(kBF16, {m, 8}, 1), Random(kBF16, {4, 8}, 2)};
    Run("cuda.linear.invariant", "linear", {}, inputs, {kBF16, {m, 4}});
    EXPECT_THAT(host_->TakeKernels(), ElementsAre("gemm_portable"));
  }
}

TEST_F(CudaLaunchersOnSm80Test, NormsAreKernelsOfTheirOwn) {
  const std::vector<Values> inputs = {Random(kBF16, {1, 8}, 1), Random(kBF16, {4, 8}, 2), Absent(), Absent(),
                                      Random(kF32, {8}, 3)};
  Run("cuda.fused_linear", "fused_linear", FusedAttrs("rms_norm", "none", false), inputs, {kBF16, {1, 4}});
  EXPECT_THAT(host_->TakeKernels(), ElementsAre("norm", "gemm"));
}

TEST_F(CudaLaunchersTest, ThereMayBeNoRows) {
  const AttrMap norm = {{"norm", "rms_norm"}, {"eps", 1e-5}};
  const Values none = {kBF16, {0, 8}}, weight = Random(kBF16, {4, 8}, 1), gamma = Random(kF32, {8}, 2);
  EXPECT_THAT(Run("cuda.embedding", "embedding", {}, {weight, {kI32, {0}}}, none), IsEmpty());
  EXPECT_THAT(Run("cuda.gather_rows", "gather_rows", {}, {weight, {kI32, {0}}}, none), IsEmpty());
  EXPECT_THAT(Run("cuda.rms_norm", "rms_norm", norm, {none, gamma}, none), IsEmpty());
  EXPECT_THAT(Run("cuda.linear", "linear", {}, {none, weight}, {kBF16, {0, 4}}), IsEmpty());
  EXPECT_THAT(Run("cuda.fused_linear.invariant", "fused_linear", FusedAttrs("rms_norm", "none", false),
                  {none, weight, Absent(), Absent(), gamma}, {kBF16, {0, 4}}),
              IsEmpty());
  EXPECT_THAT(host_->TakeKernels(), IsEmpty());
}

TEST_F(CudaLaunchersTest, OperandsThatDoNotFitAreRefused) {
  const Values x = Random(kBF16, {2, 8}, 1), weight = Random(kBF16, {4, 8}, 2), y = {kBF16, {2, 4}};
  const Values ids = Given(kI32, {2}, {0, 1}), gamma = Random(kF32, {8}, 3), short_gamma = Random(kF32, {4}, 3);
  const AttrMap eps = {{"eps", 1e-5}}, none = FusedAttrs("none", "none", false);
  const AttrMap rms = FusedAttrs("rms_norm", "none", false), add = {{"norm", "rms_norm"}, {"eps", 1e-5}};
  ExpectRefused("cuda.embedding", "embedding", {}, {Random(kBF16, {8}, 1), ids}, {x}, "table is bf16[8]");
  ExpectRefused("cuda.embedding", "embedding", {}, {weight, ids}, {{kBF16, {2, 7}}}, "result is bf16[2, 7]");
  ExpectRefused("cuda.embedding", "embedding", {}, {weight, ids}, {{kBF16, {3, 8}}}, "result is bf16[3, 8]");
  ExpectRefused("cuda.gather_rows", "gather_rows", {}, {x, Given(kI32, {2, 1}, {0, 0})}, {x}, "rows of rank 1");
  ExpectRefused("cuda.gather_rows", "gather_rows", {}, {x, ids}, {{kBF16, {2, 4}}}, "expected 2 rows of bf16[2, 8]");
  ExpectRefused("cuda.gather_rows", "gather_rows", {}, {x, ids}, {{kF32, {2, 8}}}, "differ in dtype");
  ExpectRefused("cuda.rms_norm", "rms_norm", eps, {x, short_gamma}, {x}, "weight is f32[4], expected [8]");
  ExpectRefused("cuda.rms_norm", "rms_norm", eps, {x, gamma}, {y}, "result is bf16[2, 4], expected [2, 8]");
  ExpectRefused("cuda.rms_norm", "rms_norm", eps, {x, gamma}, {{kF32, {2, 8}}}, "differ in dtype");
  ExpectRefused("cuda.layer_norm", "layer_norm", eps, {x, gamma, short_gamma}, {x}, "bias is f32[4], expected [8]");
  ExpectRefused("cuda.add_norm", "add_norm", add, {x, y, gamma}, {x, x}, "residual is bf16[2, 4]");
  ExpectRefused("cuda.add_norm", "add_norm", add, {x, x, gamma}, {y, x}, "sum is bf16[2, 4]");
  ExpectRefused("cuda.add_norm", "add_norm", add, {x, x, gamma}, {x, y}, "norm is bf16[2, 4]");
  ExpectRefused("cuda.add_norm", "add_norm", add, {x, x, gamma, gamma}, {x, x}, "rms_norm has no bias");
  ExpectRefused("cuda.add_norm", "add_norm", add, {x, Random(kF32, {2, 8}, 1), gamma}, {x, x}, "differ in dtype");
  ExpectRefused("cuda.add_norm", "add_norm", FusedAttrs("batch_norm", "none", false), {x, x, gamma}, {x, x},
                "norm is \"batch_norm\"");
  ExpectRefused("cuda.linear", "linear", {}, {y, weight}, {y}, "x is bf16[2, 4], expected a last dim of 8");
  ExpectRefused("cuda.linear", "linear", {}, {x, Random(kBF16, {32}, 1)}, {y}, "weight is bf16[32], expected rank 2");
  ExpectRefused("cuda.linear", "linear", {}, {x, weight, gamma}, {y}, "bias is f32[8], expected [4]");
  ExpectRefused("cuda.linear", "linear", {}, {x, weight}, {x}, "result is bf16[2, 8]");
  ExpectRefused("cuda.linear", "linear", {}, {x, weight, Random(kBF16, {4}, 1)}, {y}, "bias cannot be bf16");
  ExpectRefused("cuda.linear", "linear", {}, {x, Random(kF32, {4, 8}, 1)}, {y}, "multiplies bf16 with f32 to bf16",
                absl::StatusCode::kUnimplemented);
  ExpectRefused("cuda.linear", "linear", {}, {x, weight}, {{kF16, {2, 4}}}, "bf16 with bf16 to f16",
                absl::StatusCode::kUnimplemented);
  ExpectRefused("cuda.fused_linear", "fused_linear", none, {x, weight, Absent(), x}, {y}, "residual is bf16[2, 8]");
  ExpectRefused("cuda.fused_linear", "fused_linear", rms, {x, weight, Absent(), Absent(), short_gamma}, {y},
                "weight is f32[4], expected [8]");
  ExpectRefused("cuda.fused_linear", "fused_linear", FusedAttrs("none", "none", true), {x, Random(kBF16, {3, 8}, 1)},
                {y}, "an even number of rows");
  ExpectRefused("cuda.fused_linear", "fused_linear", FusedAttrs("none", "relu", false), {x, weight, Absent(), y}, {y},
                "activation \"relu\"", absl::StatusCode::kUnimplemented);
  workspace_bytes_ = 31;
  ExpectRefused("cuda.fused_linear", "fused_linear", rms, {x, weight, Absent(), Absent(), gamma}, {y},
                "its working memory has 31 bytes, expected 32");
}

TEST_F(CudaLaunchersTest, ErrorsOfCudaAreTold) {
  const std::vector<Values> inputs = {Random(kBF16, {2, 12}, 1), Random(kBF16, {4, 12}, 2)};
  ExpectRefused("cuda.linear", "linear", {}, inputs, {{kBF16, {2, 4}}},
                "no CUDA kernel on this GPU takes bf16[2, 12], bf16[4, 12]: run the model on the CPU",
                absl::StatusCode::kUnimplemented);
  EXPECT_EQ(api().get_last_error(), cudaSuccess) << "the error is forgotten";
  const std::vector<Values> good = {Random(kBF16, {2, 8}, 1), Random(kBF16, {4, 8}, 2)};
  host_->Fail("gemm", cudaErrorIllegalAddress);
  ExpectRefused("cuda.linear", "linear", {}, good, {{kBF16, {2, 4}}}, "CUDA: an illegal memory access",
                absl::StatusCode::kInternal);
  host_->Fail("gemm_rows_sm90", cudaErrorLaunchFailure);
  ExpectRefused("cuda.linear.invariant", "linear", {}, good, {{kBF16, {2, 4}}}, "CUDA: ", absl::StatusCode::kInternal);
  // A norm that fails: no product of what it did not write.
  host_->Fail("norm", cudaErrorLaunchFailure);
  ExpectRefused("cuda.fused_linear", "fused_linear", FusedAttrs("rms_norm", "none", false),
                {Random(kBF16, {9, 8}, 1), good[1], Absent(), Absent(), Random(kF32, {8}, 1)}, {{kBF16, {9, 4}}},
                "CUDA: ", absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace flashflow::kernels
