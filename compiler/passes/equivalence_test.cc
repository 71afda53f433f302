// Each pass against its relation, on random decoders and on models as they are exported.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "compiler/frontend/import_graph.h"
#include "compiler/frontend/test_models.h"
#include "compiler/ir/float_convert.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/verifier.h"
#include "compiler/passes/canonicalize_pass.h"
#include "compiler/passes/constant_fold_pass.h"
#include "compiler/passes/cse_pass.h"
#include "compiler/passes/dce_pass.h"
#include "compiler/passes/decoder_runs.h"
#include "compiler/passes/fuse_attention_pass.h"
#include "compiler/passes/fuse_cached_attention_pass.h"
#include "compiler/passes/fuse_mlp_pass.h"
#include "compiler/passes/fuse_norm_residual_pass.h"
#include "compiler/passes/fuse_out_residual_pass.h"
#include "compiler/passes/fuse_qkv_norm_pass.h"
#include "compiler/passes/fuse_rope_pass.h"
#include "compiler/passes/ir_check.h"
#include "compiler/passes/kv_cache_pass.h"
#include "compiler/passes/last_token_head_pass.h"
#include "compiler/passes/merge_qkv_pass.h"
#include "compiler/passes/narrow_weights_pass.h"
#include "compiler/passes/pass.h"
#include "compiler/passes/pipeline.h"
#include "compiler/passes/random_decoder.h"
#include "compiler/passes/recognize_activations_pass.h"
#include "compiler/passes/recognize_norms_pass.h"
#include "compiler/passes/simplify_pass.h"
#include "compiler/proof/decoder_runs.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

using interpreter::Mode;

constexpr double kNormEps = 1e-2;                     // of random decoders
constexpr int64_t kLongestSum = 2 * kDecoderContext;  // terms of an attention's sums, the longest of them all
constexpr int kSeeds = 60;

const CompileOptions kOptions = {.page_size = 4, .max_tokens = 512, .max_rows = 8, .max_logit_rows = 512};

absl::Status Apply(Passes passes, ir::Graph* graph, const CompileOptions& options = kOptions) {
  const auto records = PassManager(std::move(passes)).Run(graph, options);
  if (!records.ok()) return records.status();
  for (const PassRecord& record : *records) {
    for (const Remark& remark : record.remarks) return absl::FailedPreconditionError(remark.ToString());
  }
  return absl::OkStatus();
}

// A decoder with values for its weights and some sequences to run.
struct Trial {
  explicit Trial(uint32_t seed) : random(seed), graph(RandomDecoder(seed)) {
    weights = RandomWeights(*graph, random);
    sequences = proof::RandomSequences(1 + static_cast<int>(seed % 4), kDecoderContext, kDecoderVocabulary, random);
  }
  absl::StatusOr<Logits> Rectangular(const ir::Graph& g, Mode mode) const {
    return proof::RunRectangular(g, interpreter::WeightsFrom(weights), sequences, mode);
  }
  // The same steps each time.
  absl::StatusOr<Logits> Steps(const ir::Graph& g, Mode mode) const {
    std::mt19937 copy = random;
    return proof::RunSteps(g, interpreter::WeightsFrom(weights), sequences, kOptions.page_size, mode, copy);
  }
  std::mt19937 random;
  std::unique_ptr<ir::Graph> graph;
  Weights weights;
  Sequences sequences;
};

// Runs the passes over random decoders, whose results must stay the same bits in both modes; gives the number of nodes
// that they and dce removed.
void CheckIdentical(Passes (*passes)(), int64_t* removed) {
  *removed = 0;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    const Trial trial(seed);
    const std::unique_ptr<ir::Graph> original = trial.graph->Clone();
    ASSERT_EQ(Apply(passes(), trial.graph.get()), absl::OkStatus());
    *removed += static_cast<int64_t>(original->nodes().size() - trial.graph->nodes().size());
    for (Mode mode : {Mode::kTyped, Mode::kWide}) {
      const auto before = trial.Rectangular(*original, mode);
      ASSERT_TRUE(before.ok()) << before.status();
      const auto after = trial.Rectangular(*trial.graph, mode);
      ASSERT_TRUE(after.ok()) << after.status();
      ASSERT_TRUE(RowsAgree(*after, *before, 0)) << "seed " << seed << "\n" << ir::Print(*trial.graph);
    }
  }
}

TEST(EquivalenceTest, CanonicalizeAndDceAreIdentical) {
  int64_t removed = 0;
  CheckIdentical([] { return MakePassList<CanonicalizePass, DcePass>(); }, &removed);
  EXPECT_GT(removed, 5 * kSeeds) << "the random graphs should give the passes something to do";
}

TEST(EquivalenceTest, ConstantFoldIsIdentical) {
  int64_t removed = 0;
  CheckIdentical([] { return MakePassList<ConstantFoldPass, DcePass>(); }, &removed);
  EXPECT_GT(removed, kSeeds);
}

TEST(EquivalenceTest, SimplifyIsIdentical) {
  int64_t removed = 0;
  CheckIdentical([] { return MakePassList<ConstantFoldPass, SimplifyPass, DcePass>(); }, &removed);
  EXPECT_GT(removed, 5 * kSeeds);
}

TEST(EquivalenceTest, CseIsIdentical) {
  int64_t removed = 0;
  CheckIdentical([] { return MakePassList<CsePass, DcePass>(); }, &removed);
  EXPECT_GT(removed, 5 * kSeeds);
}

// In the wide mode, where only the order of operations is left to differ.
TEST(EquivalenceTest, RecognizedNormsAndActivationsAreReassociated) {
  int64_t removed = 0;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    const Trial trial(seed);
    const auto before = trial.Rectangular(*trial.graph, Mode::kWide);
    ASSERT_TRUE(before.ok()) << before.status();
    const double tolerance = WideTolerance(*trial.graph, kLongestSum, kNormEps);
    const size_t nodes = trial.graph->nodes().size();
    ASSERT_EQ(Apply(MakePassList<RecognizeNormsPass, RecognizeActivationsPass, DcePass>(), trial.graph.get()),
              absl::OkStatus());
    removed += static_cast<int64_t>(nodes - trial.graph->nodes().size());
    const auto after = trial.Rectangular(*trial.graph, Mode::kWide);
    ASSERT_TRUE(after.ok()) << after.status();
    ASSERT_TRUE(RowsAgree(*after, *before, tolerance)) << "seed " << seed << "\n" << ir::Print(*trial.graph);
  }
  EXPECT_GT(removed, 10 * kSeeds);
}

// Writes every attention out as models do, heads repeated and masked through index arithmetic; how many there were.
int WriteOutAttention(ir::Graph* graph) {
  std::vector<ir::Node*> attentions;
  for (const auto& node : graph->nodes()) {
    if (node->op() == ir::Op::kAttention) attentions.push_back(node.get());
  }
  for (ir::Node* node : attentions) {
    const auto add = [&](ir::Op op, std::vector<ir::Value*> operands, AttrMap attrs = {}) {
      return (*graph->AddNode(op, std::move(operands), std::move(attrs), "", node))->result();
    };
    const auto number = [&](double value, DType dtype) {
      return add(ir::Op::kConstant, {}, {{"value", value}, {"dtype", dtype}});
    };
    const Dims q = node->operand(0)->tensor().shape;
    const auto repeated = [&](ir::Value* value) {
      Dims apart = value->tensor().shape;
      apart.insert(apart.begin() + 2, DimExpr(1));
      value = add(ir::Op::kReshape, {value}, {{"shape", apart}});
      apart[2] = *q[1].DividedBy(apart[1]);
      value = add(ir::Op::kExpand, {value}, {{"shape", apart}});
      return add(ir::Op::kReshape, {value}, {{"shape", Dims{apart[0], q[1], apart[3], apart[4]}}});
    };
    const auto places = [&](int64_t axis) {
      Dims shape(4, DimExpr(1));
      shape[axis] = q[2];
      return add(ir::Op::kIota, {}, {{"dtype", DType::kI64}, {"shape", shape}, {"axis", axis}});
    };
    ir::Value* query = places(2);
    ir::Value* key = places(3);
    ir::Value* sees = add(ir::Op::kLe, {key, query});
    if (const int64_t window = node->attr<int64_t>("window"); window > 0) {
      ir::Value* first = add(ir::Op::kSub, {query, number(static_cast<double>(window), DType::kI64)});
      sees = add(ir::Op::kLogicalAnd, {sees, add(ir::Op::kGt, {key, first})});
    }
    ir::Value* mask = add(ir::Op::kWhere, {sees, number(0, DType::kF32), number(-INFINITY, DType::kF32)});
    ir::Value* keys =
        add(ir::Op::kTranspose, {repeated(node->operand(1))}, {{"perm", std::vector<int64_t>{0, 1, 3, 2}}});
    ir::Value* scores = add(ir::Op::kMatmul, {node->operand(0), keys});
    scores = add(ir::Op::kMul, {scores, number(node->attr<double>("scale"), DType::kF32)});
    ir::Value* weights = add(ir::Op::kSoftmax, {add(ir::Op::kAdd, {scores, mask})}, {{"axis", int64_t{3}}});
    graph->ReplaceAllUsesWith(node->result(), add(ir::Op::kMatmul, {weights, repeated(node->operand(2))}));
    graph->Erase(node);
  }
  return static_cast<int>(attentions.size());
}

TEST(EquivalenceTest, FusedAttentionIsReassociated) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    const Trial trial(seed);
    const int written_out = WriteOutAttention(trial.graph.get());
    const auto before = trial.Rectangular(*trial.graph, Mode::kWide);
    ASSERT_TRUE(before.ok()) << before.status();
    const double tolerance = WideTolerance(*trial.graph, kLongestSum, kNormEps);
    ASSERT_EQ(Apply(MakePassList<FuseAttentionPass, DcePass>(), trial.graph.get()), absl::OkStatus());
    const auto is_attention = [](const auto& node) { return node->op() == ir::Op::kAttention; };
    ASSERT_LE(std::ranges::count_if(trial.graph->nodes(), is_attention), written_out);  // dce removes what is unused
    ASSERT_GT(std::ranges::count_if(trial.graph->nodes(), is_attention), 0);
    const auto after = trial.Rectangular(*trial.graph, Mode::kWide);
    ASSERT_TRUE(after.ok()) << after.status();
    ASSERT_TRUE(RowsAgree(*after, *before, tolerance)) << "seed " << seed << "\n" << ir::Print(*trial.graph);
  }
}

TEST(EquivalenceTest, KvCacheRowsEqualTheFullGraphs) {
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    const Trial trial(seed);
    const auto want = trial.Rectangular(*trial.graph, Mode::kWide);
    ASSERT_TRUE(want.ok()) << want.status();
    const double tolerance = WideTolerance(*trial.graph, kLongestSum, kNormEps);
    const std::string text = ir::Print(*trial.graph);
    const absl::Status applied = Apply(MakePassList<KvCachePass>(), trial.graph.get());
    ASSERT_TRUE(applied.ok()) << applied << text;
    const auto got = trial.Steps(*trial.graph, Mode::kWide);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_TRUE(RowsAgree(*got, *want, tolerance)) << "seed " << seed << "\n" << text << ir::Print(*trial.graph);
  }
}

int NodesOnLogitRows(const ir::Graph& graph) {
  return static_cast<int>(std::ranges::count_if(graph.nodes(), [](const auto& node) {
    if (!node->result()->type().is_tensor()) return false;
    const Dims& shape = node->result()->tensor().shape;
    return !shape.empty() && shape[0] == DimExpr::Symbol("L");
  }));
}

TEST(EquivalenceTest, LastTokenHeadIsIdentical) {
  int sunk = 0;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    const Trial trial(seed);
    ASSERT_EQ(Apply(MakePassList<CanonicalizePass, DcePass, KvCachePass>(), trial.graph.get()), absl::OkStatus());
    const auto before = trial.Steps(*trial.graph, Mode::kTyped);
    ASSERT_TRUE(before.ok()) << before.status();
    const auto records = PassManager(MakePassList<LastTokenHeadPass>()).Run(trial.graph.get(), kOptions);
    ASSERT_TRUE(records.ok()) << records.status();
    sunk += NodesOnLogitRows(*trial.graph);
    const auto after = trial.Steps(*trial.graph, Mode::kTyped);
    ASSERT_TRUE(after.ok()) << after.status();
    ASSERT_TRUE(RowsAgree(*after, *before, 0)) << "seed " << seed << "\n" << ir::Print(*trial.graph);
  }
  EXPECT_GT(sunk, 3 * kSeeds);
}

// Narrowed: as the same graph in f32, given weights that are rounded already, which rounds keys and values on their way
// into the cache.
TEST(EquivalenceTest, NarrowWeightsRoundsWeightsAndCacheAndNothingElse) {
  CompileOptions options = kOptions;
  options.dtype = "bf16";
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    Trial trial(seed);
    ASSERT_EQ(Apply(MakePassList<CanonicalizePass, DcePass, KvCachePass>(), trial.graph.get()), absl::OkStatus());
    const std::unique_ptr<ir::Graph> reference = trial.graph->Clone();
    ASSERT_EQ(Apply(MakePassList<NarrowWeightsPass>(), trial.graph.get(), options), absl::OkStatus());
    const auto got = trial.Steps(*trial.graph, Mode::kTyped);
    ASSERT_TRUE(got.ok()) << got.status();

    int narrowed = 0;
    for (const ir::Value* weight : trial.graph->weights()) {
      if (weight->tensor().dtype == DType::kF32) continue;
      interpreter::Tensor& values = trial.weights.at(weight->name());
      for (double& value : values.floats) value = RoundTo(DType::kBF16, value);
      ++narrowed;
    }
    EXPECT_GT(narrowed, 0);
    std::vector<ir::Node*> appends;
    for (const auto& node : reference->nodes()) {
      if (node->op() == ir::Op::kKvAppend) appends.push_back(node.get());
    }
    for (ir::Node* append : appends) {
      for (int i : {1, 2}) {
        ir::Value* value = append->operand(i);
        for (DType dtype : {DType::kBF16, DType::kF32}) {
          value = (*reference->AddNode(ir::Op::kCast, {value}, {{"dtype", dtype}}, "", append))->result();
        }
        reference->SetOperand(append, i, value);
      }
    }
    const auto want = trial.Steps(*reference, Mode::kTyped);
    ASSERT_TRUE(want.ok()) << want.status();
    ASSERT_TRUE(RowsAgree(*got, *want, 0)) << "seed " << seed << "\n" << ir::Print(*trial.graph);
  }
}

// The fusion passes one after the other, each against the graph before it: on exported models, of which random decoders
// hold few patterns.
void CheckFusion(const std::string& json, const std::vector<std::string>& expected) {
  auto imported = frontend::ImportGraph(json);
  ASSERT_TRUE(imported.ok()) << imported.status();
  const std::unique_ptr<ir::Graph> graph = *std::move(imported);
  const double tolerance = WideTolerance(*graph, 2 * 64, 1e-5);
  ASSERT_EQ(Apply(MakePassList<CanonicalizePass, DcePass, KvCachePass, CanonicalizePass, DcePass>(), graph.get()),
            absl::OkStatus());
  std::mt19937 random(11);
  const Weights weights = RandomWeights(*graph, random);
  const Sequences sequences = proof::RandomSequences(5, 64, 61, random);
  const auto run = [&] {
    std::mt19937 copy = random;
    return proof::RunSteps(*graph, interpreter::WeightsFrom(weights), sequences, kOptions.page_size, Mode::kWide, copy);
  };
  Passes passes = MakePassList<MergeQkvPass, FuseRopePass, FuseMlpPass, FuseOutResidualPass, FuseQkvNormPass,
                               FuseNormResidualPass, FuseCachedAttentionPass>();
  std::vector<std::string> changed;
  for (auto& pass : passes) {
    SCOPED_TRACE(pass->name());
    const std::string name(pass->name());
    const double allowed = pass->relation() == Relation::kIdentical ? 0 : tolerance;
    const auto before = run();
    ASSERT_TRUE(before.ok()) << before.status();
    Passes one;
    one.push_back(std::move(pass));
    const auto records = PassManager(std::move(one)).Run(graph.get(), kOptions);
    ASSERT_TRUE(records.ok()) << records.status();
    ASSERT_EQ(Apply(MakePassList<DcePass>(), graph.get()), absl::OkStatus());
    if ((*records)[0].changed) changed.push_back(name);
    const auto after = run();
    ASSERT_TRUE(after.ok()) << after.status();
    EXPECT_TRUE(RowsAgree(*after, *before, allowed));
  }
  EXPECT_EQ(changed, expected);
}

TEST(EquivalenceTest, FusionKeepsGpt2) {
  CheckFusion(frontend::Gpt2Json({}), {"fuse-mlp", "fuse-out-residual", "fuse-qkv-norm", "fuse-cached-attention"});
}

TEST(EquivalenceTest, FusionKeepsLlama) {
  CheckFusion(frontend::LlamaJson({.kv_heads = 2}),
              {"merge-qkv", "fuse-rope", "fuse-mlp", "fuse-out-residual", "fuse-qkv-norm", "fuse-cached-attention"});
}

TEST(EquivalenceTest, TheWholePipelineKeepsRandomDecoders) {
  for (uint32_t seed = 1000; seed < 1000 + kSeeds; ++seed) {
    const Trial trial(seed);
    const auto want = trial.Rectangular(*trial.graph, Mode::kWide);
    ASSERT_TRUE(want.ok()) << want.status();
    const double tolerance = WideTolerance(*trial.graph, kLongestSum, kNormEps);
    ASSERT_TRUE(PassManager(StepPipeline()).Run(trial.graph.get(), kOptions).ok());
    const auto got = trial.Steps(*trial.graph, Mode::kWide);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_TRUE(RowsAgree(*got, *want, tolerance)) << "seed " << seed;
  }
}

void CheckModel(const std::string& json, int64_t vocabulary) {
  const auto graph = frontend::ImportGraph(json);
  ASSERT_TRUE(graph.ok()) << graph.status();
  std::mt19937 random(7);
  const Weights weights = RandomWeights(**graph, random);
  const Sequences sequences = proof::RandomSequences(5, 64, vocabulary, random);
  const auto want = proof::RunRectangular(**graph, interpreter::WeightsFrom(weights), sequences, Mode::kWide);
  ASSERT_TRUE(want.ok()) << want.status();
  const double tolerance = WideTolerance(**graph, 2 * 64, 1e-5);
  const absl::Status applied = Apply(StepPipeline(), graph->get());
  ASSERT_TRUE(applied.ok()) << applied;
  const auto got =
      proof::RunSteps(**graph, interpreter::WeightsFrom(weights), sequences, kOptions.page_size, Mode::kWide, random);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_TRUE(RowsAgree(*got, *want, tolerance));
}

TEST(EquivalenceTest, TheWholePipelineKeepsGpt2) { CheckModel(frontend::Gpt2Json({}), 61); }

TEST(EquivalenceTest, TheWholePipelineKeepsLlama) { CheckModel(frontend::LlamaJson({.kv_heads = 2}), 61); }

TEST(EquivalenceTest, EveryPassKeepsToALimitOfRewrites) {
  CompileOptions options = kOptions;
  options.quantize = "int8";
  for (uint32_t seed = 0; seed < 4; ++seed) {
    const auto graph = RandomDecoder(seed);
    for (const auto& pass : StepPipeline()) {
      for (const int64_t limit : {0, 1}) {
        const auto limited = graph->Clone();
        PassContext context(pass->name(), options, limit);
        const auto changed = pass->Run(limited.get(), &context);
        ASSERT_TRUE(changed.ok()) << pass->name() << ": " << changed.status();
        EXPECT_LE(context.rewrites(), limit) << pass->name();
        EXPECT_TRUE(ir::Verify(*limited).ok()) << pass->name();
        if (limit > 0) continue;
        // What it made for a rewrite that it may not make is dead; the dtype that it notes is no rewrite.
        const auto unchanged = graph->Clone();
        unchanged->metadata() = limited->metadata();
        ASSERT_TRUE(Apply(MakePassList<DcePass>(), limited.get()).ok() &&
                    Apply(MakePassList<DcePass>(), unchanged.get()).ok());
        EXPECT_TRUE(ir::StructurallyEqual(*limited, *unchanged)) << pass->name();
      }
      PassContext context(pass->name(), options);
      ASSERT_TRUE(pass->Run(graph.get(), &context).ok()) << pass->name();
    }
  }
}

}  // namespace
}  // namespace flashflow::passes
