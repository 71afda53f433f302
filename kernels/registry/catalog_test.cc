#include "kernels/registry/catalog.h"

#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "compiler/ir/attr.h"
#include "compiler/ir/dim_expr.h"
#include "gtest/gtest.h"

namespace flashflow::kernels {
namespace {

TEST(CatalogTest, IdsAreUniqueAndFound) {
  std::set<std::pair<std::string, int32_t>> seen;
  for (const KernelSpec& spec : Catalog()) {
    EXPECT_TRUE(seen.emplace(spec.id, spec.version).second) << spec.id;
    EXPECT_EQ(FindKernel(spec.id, spec.version), &spec);
    EXPECT_EQ(FindKernel(spec.id, spec.version + 1), nullptr);
    EXPECT_FALSE(spec.ops.empty()) << spec.id;
    EXPECT_EQ(spec.id.substr(0, spec.device.size() + 1), std::string(spec.device) + ".");
  }
  EXPECT_EQ(FindKernel("cpu.nothing", 1), nullptr);
}

TEST(CatalogTest, LayoutRulesNameOperandsThatTakeTheDtype) {
  for (const KernelSpec& spec : Catalog()) {
    for (const WeightLayoutRule& rule : spec.weight_layouts) {
      EXPECT_TRUE(AcceptsInput(spec, rule.operand, rule.dtype)) << spec.id;
      std::vector<int64_t> shape = {16, 16};
      if (rule.layout == kPanel16Groups) shape.push_back(2);
      EXPECT_TRUE(PackedBytes(rule.layout, shape, rule.dtype).ok()) << spec.id;
    }
  }
}

TEST(CatalogTest, ResultsInPlaceOfOperandsAreOfTheirDtypes) {
  for (const KernelSpec& spec : Catalog()) {
    for (const InPlaceRule& rule : spec.in_place) {
      ASSERT_LT(rule.output, static_cast<int>(spec.outputs.size())) << spec.id;
      ASSERT_LT(rule.input, static_cast<int>(spec.inputs.size())) << spec.id;
    }
  }
  EXPECT_TRUE(MayOverwrite(*FindKernel("cpu.select", 1), 0, 2));
  EXPECT_FALSE(MayOverwrite(*FindKernel("cpu.select", 1), 0, 0));
  EXPECT_FALSE(MayOverwrite(*FindKernel("cpu.matmul", 1), 0, 0));
}

TEST(CatalogTest, WorkingMemoryHoldsTurnedQueriesAndKeys) {
  const KernelSpec& attention = *FindKernel("cpu.cached_attention", 1);
  const DimExpr T = DimExpr::Symbol("T");
  const AttrMap attrs = {{"heads", int64_t{9}}};
  // 9 heads of queries, 3 of keys, 3 of values, of 64 channels each.
  EXPECT_EQ(*WorkspaceBytes(attention, attrs, {{T, 960}, {}, {}, {}, {T, 64}, {T, 64}}), T * (12 * 64 * 4));
  EXPECT_EQ(*WorkspaceBytes(attention, attrs, {{T, 960}, {}, {}, {}}), DimExpr(0)) << "nothing turns";
  EXPECT_FALSE(WorkspaceBytes(attention, attrs, {{T, 961}, {}, {}, {}, {T, 64}, {T, 64}}).ok());
}

TEST(CatalogTest, WorkingMemoryHoldsRowsOfCodes) {
  const KernelSpec& linear = *FindKernel("cpu.fused_linear.int8", 1);
  const DimExpr T = DimExpr::Symbol("T");
  // 100 codes in rows of 128 + 64 bytes, a scale, and the normalized row.
  EXPECT_EQ(*WorkspaceBytes(linear, {{"norm", "none"}}, {{T, 2, 100}, {7, 100}}), T * (2 * (192 + 4)));
  EXPECT_EQ(*WorkspaceBytes(linear, {{"norm", "rms_norm"}}, {{T, 100}, {7, 100}}), T * (192 + 4 + 400));
  EXPECT_FALSE(WorkspaceBytes(linear, {{"norm", "none"}}, {{T, T}, {7, T}}).ok());
  EXPECT_FALSE(WorkspaceBytes(linear, {{"norm", "none"}}, {{T, 100}}).ok());

  const KernelSpec& int4 = *FindKernel("cpu.fused_linear.int4", 1);
  EXPECT_EQ(*WorkspaceBytes(int4, {{"norm", "none"}}, {{T, 2, 96}, {7, 48}}), T * (2 * 3 * 40));
  EXPECT_EQ(*WorkspaceBytes(int4, {{"norm", "rms_norm"}}, {{T, 96}, {7, 48}}), T * (3 * 40 + 96 * 4));
  EXPECT_FALSE(WorkspaceBytes(int4, {{"norm", "none"}}, {{T, 100}, {7, 50}}).ok());
}

TEST(CatalogTest, KernelsForOp) {
  ASSERT_EQ(KernelsForOp("linear", "cpu").size(), 2u);
  EXPECT_EQ(KernelsForOp("linear", "cpu")[1]->id, "cpu.linear.row_major");
  const KernelSpec& linear = *KernelsForOp("linear", "cpu")[0];
  EXPECT_EQ(linear.id, "cpu.linear.panel16");
  EXPECT_EQ(WeightLayout(linear, 1, DType::kF32), kPanel16);
  EXPECT_EQ(WeightLayout(linear, 1, DType::kBF16), kPanel16Vnni2);
  EXPECT_EQ(WeightLayout(linear, 2, DType::kF32), kRowMajor);
  EXPECT_TRUE(KernelsForOp("linear", "abacus").empty());
  EXPECT_TRUE(KernelsForOp("nothing", "cpu").empty());
}

// An op of the step graphs has a kernel with one order of sums on each device; where that is not the first choice, a
// plan that is made for the first one serves it too.
TEST(CatalogTest, StepGraphsMayBeBatchInvariant) {
  for (const std::string device : {"cpu", "cuda"}) {
    for (const std::string op : {"embedding", "gather_rows", "add", "cast", "linear", "fused_linear", "layer_norm",
                                 "rms_norm", "add_norm", "rope", "kv_append", "paged_attention", "cached_attention"}) {
      SCOPED_TRACE(device + " " + op);
      const std::vector<const KernelSpec*> kernels = KernelsForOp(op, device);
      ASSERT_FALSE(kernels.empty());
      const KernelSpec& first = *kernels[0];
      if (first.batch_invariant) continue;
      ASSERT_GE(kernels.size(), 2u);
      const KernelSpec& invariant = *kernels[1];
      EXPECT_TRUE(invariant.batch_invariant);
      EXPECT_EQ(invariant.id, std::string(first.id) + ".invariant");
      EXPECT_EQ(invariant.inputs.size(), first.inputs.size());
      EXPECT_EQ(invariant.workspace_bytes, first.workspace_bytes);
      EXPECT_EQ(invariant.in_place.size(), first.in_place.size());
      for (int i = 0; i < static_cast<int>(first.inputs.size()); ++i) {
        EXPECT_EQ(WeightLayout(invariant, i, DType::kBF16), WeightLayout(first, i, DType::kBF16));
      }
    }
  }
  EXPECT_FALSE(FindKernel("cuda.linear", 1)->batch_invariant) << "it chooses another kernel by the number of rows";
}

TEST(CatalogTest, AcceptsInput) {
  const KernelSpec& concat = *FindKernel("cpu.concat", 1);
  EXPECT_TRUE(AcceptsInput(concat, 5, DType::kF32));
  EXPECT_FALSE(AcceptsInput(concat, -1, DType::kF32));
  const KernelSpec& binary = *FindKernel("cpu.binary", 1);
  EXPECT_TRUE(AcceptsInput(binary, 1, DType::kF32));
  EXPECT_FALSE(AcceptsInput(binary, 1, DType::kI64));
  EXPECT_FALSE(AcceptsInput(binary, 2, DType::kF32));
  EXPECT_FALSE(AcceptsInput(*FindKernel("cpu.constant", 1), 0, DType::kF32));
}

TEST(PackedBytesTest, PadsWhatTheLayoutPads) {
  EXPECT_EQ(PackedBytes(kRowMajor, {3, 5, 7}, DType::kI64).value(), 3 * 5 * 7 * 8);
  EXPECT_EQ(PackedBytes(kRowMajor, {}, DType::kF32).value(), 4);
  EXPECT_EQ(PackedBytes(kPanel16, {17, 7}, DType::kF32).value(), 32 * 7 * 4);
  EXPECT_EQ(PackedBytes(kPanel16, {16, 7}, DType::kF32).value(), 16 * 7 * 4);
  EXPECT_EQ(PackedBytes(kPanel16Vnni2, {17, 7}, DType::kBF16).value(), 32 * 8 * 2);
  EXPECT_EQ(PackedBytes(kPanel16Int8, {17, 65}, DType::kI8).value(), 32 * (128 + 4));
  EXPECT_EQ(PackedBytes(kPanel16Int4, {17, 48}, DType::kI8).value(), 32 * 48);
  EXPECT_EQ(PackedBytes(kPanel16Groups, {17, 3, 2}, DType::kF16).value(), 32 * 3 * 2 * 2);
}

TEST(PackedBytesTest, RefusesWhatItDoesNotKnow) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(PackedBytes("diagonal", {16, 16}, DType::kF32).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(PackedBytes(kPanel16, {16, 16}, DType::kBF16).ok());
  EXPECT_FALSE(PackedBytes(kPanel16Vnni2, {16, 16}, DType::kF32).ok());
  EXPECT_FALSE(PackedBytes(kPanel16, {16}, DType::kF32).ok());
  EXPECT_FALSE(PackedBytes(kRowMajor, {4, -1}, DType::kF32).ok());
  EXPECT_FALSE(PackedBytes(kRowMajor, {kHuge, 2}, DType::kF32).ok());
  EXPECT_FALSE(PackedBytes(kPanel16, {kHuge, 1}, DType::kF32).ok());
  EXPECT_FALSE(PackedBytes(kPanel16Vnni2, {1, kHuge}, DType::kBF16).ok());
  EXPECT_FALSE(PackedBytes(kPanel16Int8, {16, 16}, DType::kF32).ok());
  EXPECT_FALSE(PackedBytes(kPanel16Int4, {16, 16, 2}, DType::kI8).ok());
  EXPECT_FALSE(PackedBytes(kPanel16Groups, {16, 16}, DType::kF16).ok());
  EXPECT_FALSE(PackedBytes(kPanel16Groups, {16, 1, kHuge}, DType::kF16).ok());
  EXPECT_FALSE(PackedBytes(kPanel16Int8, {1, kHuge}, DType::kI8).ok());
}

}  // namespace
}  // namespace flashflow::kernels
