#include "compiler/codegen/kernel_selection.h"

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::codegen {
namespace {

using ::testing::HasSubstr;

constexpr OperandFacts kActivation = {DType::kF32, false};
constexpr OperandFacts kAbsent = {};

OperandFacts Weight(DType dtype) { return {dtype, true}; }

TEST(KernelSelectionTest, FindsTheKernelForItsDTypes) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const auto kernels = SelectKernels({"linear", {kActivation, Weight(dtype)}, {DType::kF32}, {}}, "cpu");
    ASSERT_TRUE(kernels.ok()) << kernels.status();
    EXPECT_EQ(kernels->size(), 1u) << "the other one reads rows, and a weight has one layout";
    EXPECT_EQ((*kernels)[0]->id, "cpu.linear.panel16");
  }
  EXPECT_TRUE(
      SelectKernels({"layer_norm", {kActivation, kAbsent, Weight(DType::kF32)}, {DType::kF32}, {}}, "cpu").ok());
  EXPECT_TRUE(SelectKernels({"concat", {kActivation, kActivation, kActivation}, {DType::kF32}, {}}, "cpu").ok());
}

TEST(KernelSelectionTest, ListsTheBatchInvariantKernelAsAnAlternative) {
  const OperandFacts x = {DType::kBF16, false};
  const auto kernels = SelectKernels({"fused_linear", {x, Weight(DType::kBF16)}, {DType::kBF16}, {}}, "cuda");
  ASSERT_TRUE(kernels.ok()) << kernels.status();
  ASSERT_EQ(kernels->size(), 2u);
  EXPECT_EQ((*kernels)[0]->id, "cuda.fused_linear");
  EXPECT_EQ((*kernels)[1]->id, "cuda.fused_linear.invariant");
}

void ExpectRefused(const OpFacts& facts, std::string_view reason, std::string_view device = "cpu") {
  const absl::Status status = SelectKernels(facts, device).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << reason;
  EXPECT_THAT(status.message(), HasSubstr(reason));
}

TEST(KernelSelectionTest, SaysWhyThereIsNone) {
  ExpectRefused({"linear", {kActivation, Weight(DType::kI8)}, {DType::kF32}, {}}, "operand weight is i8");
  ExpectRefused({"linear", {kActivation, Weight(DType::kI8)}, {DType::kF32}, {}}, "linear(f32, i8) -> f32");
  ExpectRefused({"linear", {kActivation, {DType::kBF16, false}}, {DType::kF32}, {}}, "operand weight is computed");
  ExpectRefused({"linear", {kActivation}, {DType::kF32}, {}}, "it wants operand weight");
  ExpectRefused({"neg", {kActivation}, {DType::kBF16}, {}}, "the result is bf16");
  ExpectRefused({"neg", {kActivation, kActivation}, {DType::kF32}, {}}, "it takes 1 operands");
  ExpectRefused({"neg", {kActivation}, {DType::kF32, DType::kF32}, {}}, "it has 1 results");
  ExpectRefused({"add_norm", {kActivation, kActivation}, {DType::kF32}, {}}, "it has 2 results");
  ExpectRefused({"neg", {kActivation}, {DType::kF32}, DType::kF32}, "it takes no KV cache");
  ExpectRefused({"concat", {kActivation, {DType::kI32, false}}, {DType::kF32}, {}}, "differ in dtype");
  ExpectRefused({"concat", {kActivation, kActivation}, {DType::kI32}, {}}, "the result is i32");
  ExpectRefused({"neg", {kActivation}, {DType::kF32}, {}}, "device abacus has no kernel for neg", "abacus");
}

TEST(KernelSelectionTest, CacheKernelsWantTheirCache) {
  const OperandFacts index = {DType::kI32, false};
  OpFacts facts = {"paged_attention", {kActivation, index, index, index}, {DType::kF32}, DType::kBF16};
  EXPECT_TRUE(SelectKernels(facts, "cpu").ok());
  facts.cache_dtype = DType::kF16;
  ExpectRefused(facts, "no KV cache of f16");
  facts.cache_dtype.reset();
  ExpectRefused(facts, "it wants a KV cache");
}

}  // namespace
}  // namespace flashflow::codegen
