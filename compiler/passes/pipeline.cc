#include "compiler/passes/pipeline.h"

#include "absl/status/status.h"
#include "compiler/ir/status_macros.h"
#include "compiler/passes/assign_types_pass.h"
#include "compiler/passes/canonicalize_pass.h"
#include "compiler/passes/constant_fold_pass.h"
#include "compiler/passes/cse_pass.h"
#include "compiler/passes/dce_pass.h"
#include "compiler/passes/fuse_attention_pass.h"
#include "compiler/passes/fuse_cached_attention_pass.h"
#include "compiler/passes/fuse_mlp_pass.h"
#include "compiler/passes/fuse_norm_residual_pass.h"
#include "compiler/passes/fuse_out_residual_pass.h"
#include "compiler/passes/fuse_qkv_norm_pass.h"
#include "compiler/passes/fuse_rope_pass.h"
#include "compiler/passes/kv_cache_pass.h"
#include "compiler/passes/last_token_head_pass.h"
#include "compiler/passes/merge_qkv_pass.h"
#include "compiler/passes/narrow_weights_pass.h"
#include "compiler/passes/quantize_int4_pass.h"
#include "compiler/passes/quantize_int8_pass.h"
#include "compiler/passes/recognize_activations_pass.h"
#include "compiler/passes/recognize_norms_pass.h"
#include "compiler/passes/simplify_pass.h"
#include "compiler/passes/unknown_name.h"
#include "compiler/passes/widen_vectors_pass.h"

namespace flashflow::passes {
namespace {

using MakePass = std::unique_ptr<Pass> (*)();

template <typename T>
std::unique_ptr<Pass> Make() {
  return std::make_unique<T>();
}

// clang-format off: one pass a line
constexpr MakePass kAllPasses[] = {
    Make<AssignTypesPass>,
    Make<CanonicalizePass>,
    Make<ConstantFoldPass>,
    Make<CsePass>,
    Make<DcePass>,
    Make<FuseAttentionPass>,
    Make<FuseCachedAttentionPass>,
    Make<FuseMlpPass>,
    Make<FuseNormResidualPass>,
    Make<FuseOutResidualPass>,
    Make<FuseQkvNormPass>,
    Make<FuseRopePass>,
    Make<KvCachePass>,
    Make<LastTokenHeadPass>,
    Make<MergeQkvPass>,
    Make<NarrowWeightsPass>,
    Make<QuantizeInt4Pass>,
    Make<QuantizeInt8Pass>,
    Make<RecognizeActivationsPass>,
    Make<RecognizeNormsPass>,
    Make<SimplifyPass>,
    Make<WidenVectorsPass>,
};

constexpr MakePass kStepPipeline[] = {
    // The graph as it was written, cleaned.
    Make<ConstantFoldPass>,
    Make<CanonicalizePass>,
    Make<SimplifyPass>,
    Make<RecognizeNormsPass>,
    Make<RecognizeActivationsPass>,
    Make<CsePass>,
    Make<FuseAttentionPass>,
    Make<CanonicalizePass>,
    Make<DcePass>,
    // To the step graph.
    Make<KvCachePass>,
    Make<LastTokenHeadPass>,
    Make<NarrowWeightsPass>,
    Make<CanonicalizePass>,
    Make<CsePass>,
    Make<DcePass>,
    // Fusion. Norms join what the layers have become by then; cse joins the angles of all layers.
    Make<MergeQkvPass>,
    Make<QuantizeInt4Pass>,
    Make<QuantizeInt8Pass>,
    Make<FuseRopePass>,
    Make<FuseMlpPass>,
    Make<FuseOutResidualPass>,
    Make<AssignTypesPass>,
    Make<DcePass>,
    Make<FuseQkvNormPass>,
    Make<FuseNormResidualPass>,
    Make<FuseCachedAttentionPass>,
    Make<CanonicalizePass>,
    Make<CsePass>,
    Make<DcePass>,
};

constexpr MakePass kGraphPipeline[] = {
    // As the step pipeline begins.
    Make<ConstantFoldPass>,
    Make<CanonicalizePass>,
    Make<SimplifyPass>,
    Make<RecognizeNormsPass>,
    Make<RecognizeActivationsPass>,
    Make<CsePass>,
    Make<FuseAttentionPass>,
    Make<CanonicalizePass>,
    Make<CsePass>,
    Make<DcePass>,
    // Fusion, as far as it does not need the KV cache.
    Make<MergeQkvPass>,
    Make<FuseRopePass>,
    Make<FuseMlpPass>,
    Make<FuseOutResidualPass>,
    Make<DcePass>,
    Make<FuseQkvNormPass>,
    Make<FuseNormResidualPass>,
    Make<WidenVectorsPass>,
    Make<CanonicalizePass>,
    Make<CsePass>,
    Make<DcePass>,
};

constexpr MakePass kStoragePipeline[] = {
    Make<ConstantFoldPass>,
    Make<CanonicalizePass>,
    Make<SimplifyPass>,
    Make<RecognizeNormsPass>,
    Make<RecognizeActivationsPass>,
    Make<CsePass>,
    Make<DcePass>,
    Make<NarrowWeightsPass>,
};
// clang-format on

std::vector<std::unique_ptr<Pass>> MakeAll(absl::Span<const MakePass> list) {
  std::vector<std::unique_ptr<Pass>> passes;
  for (MakePass make : list) passes.push_back(make());
  return passes;
}

}  // namespace

std::vector<std::unique_ptr<Pass>> AllPasses() { return MakeAll(kAllPasses); }
std::vector<std::unique_ptr<Pass>> StepPipeline() { return MakeAll(kStepPipeline); }
std::vector<std::unique_ptr<Pass>> GraphPipeline() { return MakeAll(kGraphPipeline); }
std::vector<std::unique_ptr<Pass>> StoragePipeline() { return MakeAll(kStoragePipeline); }

absl::StatusOr<std::vector<std::unique_ptr<Pass>>> MakePasses(absl::Span<const std::string> names) {
  std::vector<std::unique_ptr<Pass>> passes;
  for (const std::string& name : names) {
    const size_t size = passes.size();
    for (MakePass make : kAllPasses) {
      std::unique_ptr<Pass> pass = make();
      if (pass->name() == name) passes.push_back(std::move(pass));
    }
    if (passes.size() == size) {
      std::vector<std::string> known;
      for (const auto& pass : AllPasses()) known.emplace_back(pass->name());
      return UnknownName("pass", name, known);
    }
  }
  return passes;
}

}  // namespace flashflow::passes
