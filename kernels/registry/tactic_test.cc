#include "kernels/registry/tactic.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/registry/device_limits.h"
#include "kernels/registry/problem.h"

namespace flashflow::kernels {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Problem P(const std::string& text) { return *ParseProblem(text); }

DeviceLimits Hopper() { return *CudaLimits("H", "sm_90a", 132); }
DeviceLimits Ampere() { return *CudaLimits("A", "sm_80", 108); }
// A CPU with AVX-512 and 2 MiB of L2.
DeviceLimits Cpu() {
  DeviceLimits cpu;
  cpu.name = "C";
  cpu.kind = "cpu";
  cpu.tile_rows = 8;
  cpu.tile_panels = 3;
  cpu.stream_rows = 6;
  cpu.stream_panels = 4;
  cpu.l2_bytes = int64_t{2} << 20;
  return cpu;
}

std::vector<std::string> Texts(const Candidates& found) {
  std::vector<std::string> texts;
  for (const Tactic& tactic : found.tactics) texts.push_back(TacticToText(tactic));
  return texts;
}

// Why `tactic`, a kernel or a config as text, was refused; "" if it was not.
std::string Reason(const Candidates& found, const std::string& tactic) {
  const auto row = std::ranges::find(found.refused, tactic, &RefusedTactic::tactic);
  return row == found.refused.end() ? "" : row->reason;
}

Candidates Ours(const std::string& problem, const DeviceLimits& device) {
  return *FindCandidates(P(problem), device, TacticsFilter::kOurs, {});
}

TEST(TacticSpecsTest, AreWellFormed) {
  for (const TacticSpec& spec : TacticSpecs()) {
    SCOPED_TRACE(spec.kernel);
    EXPECT_EQ(FindTacticSpec(spec.kernel, spec.version), &spec) << "listed twice";
    EXPECT_FALSE(spec.ops.empty());
    for (std::string_view op : spec.ops) EXPECT_TRUE(SizesOf(op).ok()) << op;
    for (const Parameter& parameter : spec.parameters) {
      EXPECT_TRUE(std::ranges::is_sorted(parameter.values)) << parameter.name;
      EXPECT_EQ(std::ranges::count(parameter.values, parameter.default_value), 1) << parameter.name;
      EXPECT_FALSE(parameter.meaning.empty()) << parameter.name;
    }
    EXPECT_EQ(spec.device == "cpu", spec.min_capability == 0);
  }
  // What the CPU's rows speak of is in the catalog.
  EXPECT_NE(FindKernel("cpu.linear.panel16", FindTacticSpec("cpu.linear.panel16", 1)->version), nullptr);
  EXPECT_NE(FindKernel("cpu.fused_linear.panel16", 1), nullptr);
  EXPECT_EQ(FindTacticSpec("cuda.gemm_sm90", 2), nullptr);
}

TEST(TacticTest, ConfigsAreNamed) {
  const TacticSpec& spec = *FindTacticSpec("cpu.linear.panel16", 1);
  EXPECT_EQ(TacticToText({&spec, DefaultConfig(spec)}), "cpu.linear.panel16");
  const absl::StatusOr<Config> config = MakeConfig(spec, {{"task_columns", 96}, {"tile_rows", 4}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(ValueOf(spec, *config, "tile_rows"), 4);
  EXPECT_EQ(ValueOf(spec, *config, "block_k"), 768);
  EXPECT_EQ(TacticToText({&spec, *config}), "cpu.linear.panel16[tile_rows=4,task_columns=96]");
  EXPECT_THAT(MakeConfig(spec, {{"tile_n", 128}}).status().message(), HasSubstr("no parameter \"tile_n\""));
  EXPECT_THAT(MakeConfig(spec, {{"tile_rows", 5}}).status().message(), HasSubstr("is 5; it can be 0, 4, 6"));
}

TEST(CandidatesTest, HopperGemmIsRankedByItsModel) {
  // 32 x 48, 24, 20 and 16 tiles on 66 pairs of multiprocessors: 24, 12, 10 and 8 rounds.
  const Candidates found = Ours("linear/bf16/m=8192,n=3072,k=768", Hopper());
  EXPECT_THAT(Texts(found),
              ElementsAre("cuda.gemm_sm90[tile_n=192]", "cuda.gemm_sm90[tile_n=128]", "cuda.gemm_sm90[tile_n=160]",
                          "cuda.gemm_sm90[tile_n=64]", "cuda.gemm_portable"));
  EXPECT_EQ(Reason(found, "cuda.gemm_skinny"), "m is 8192; it takes at most 64");
  EXPECT_EQ(Reason(found, "cublaslt.matmul"), "it is cublaslt's, not ours");
}

TEST(CandidatesTest, EachLimitOfAKernelIsAReason) {
  const auto reason = [](const std::string& kernel, const std::string& problem) {
    return Reason(Ours(problem, Hopper()), kernel);
  };
  EXPECT_EQ(reason("cuda.gemm_skinny", "linear/bf16/m=64,n=7,k=8"), "");
  EXPECT_EQ(reason("cuda.gemm_skinny", "linear/bf16/m=65,n=7,k=8"), "m is 65; it takes at most 64");
  EXPECT_EQ(reason("cuda.gemm_skinny", "fused_linear/bf16/m=33,n=16,k=8,gated"),
            "m is 33; it takes at most 32 where gated");
  EXPECT_EQ(reason("cuda.gemm_skinny", "linear/bf16/m=1,n=7,k=9"), "k is 9, no multiple of 8");
  EXPECT_EQ(reason("cuda.gemm_skinny", "linear/f16/m=1,n=7,k=8"), "");
  EXPECT_EQ(reason("cuda.gemm_skinny", "linear/i8/m=1,n=7,k=16"), "");
  EXPECT_EQ(reason("cuda.gemm_skinny", "linear/i8/m=1,n=7,k=24"), "k is 24, no multiple of 16");
  EXPECT_EQ(reason("cuda.gemm_skinny", "linear/i8/m=1,n=7,k=131072"), "");
  EXPECT_EQ(reason("cuda.gemm_skinny", "linear/i8/m=1,n=7,k=131088"), "k is 131088; it takes at most 131072 of i8");
  EXPECT_EQ(reason("cuda.gemm_skinny", "linear/f32/m=1,n=7,k=8"), "it does not take f32");

  EXPECT_EQ(reason("cuda.gemm_sm90", "linear/bf16/m=1,n=8,k=12"), "k is 12, no multiple of 8");
  EXPECT_EQ(reason("cuda.gemm_sm90", "linear/bf16/m=1,n=12,k=8"), "n is 12, no multiple of 8");
  EXPECT_EQ(reason("cuda.gemm_sm90", "linear/bf16/m=1,n=12,k=8,f32_output"), "");
  EXPECT_EQ(reason("cuda.gemm_sm90", "fused_linear/bf16/m=1,n=24,k=8,gated"), "half of n is 12, no multiple of 8");
  EXPECT_THAT(reason("cuda.gemm_sm90", "fused_linear/bf16/m=1,n=16,k=8,residual,activated"), HasSubstr("residual"));
  EXPECT_THAT(reason("cuda.gemm_sm90", "fused_linear/bf16/m=1,n=16,k=8,residual,gated"), HasSubstr("residual"));
  EXPECT_THAT(reason("cuda.gemm_sm90", "fused_linear/bf16/m=1,n=16,k=8,residual,f32_output"), HasSubstr("residual"));
  EXPECT_EQ(reason("cuda.gemm_sm90", "fused_linear/bf16/m=1,n=16,k=8,residual"), "");
  EXPECT_THAT(reason("cuda.gemm_sm90", "fused_linear/bf16/m=1,n=16,k=8,activated,f32_output"),
              HasSubstr("f32 without an activation"));
  EXPECT_THAT(reason("cuda.gemm_sm90", "fused_linear/bf16/m=1,n=16,k=8,gated,f32_output"), HasSubstr("not gated"));
  EXPECT_EQ(reason("cuda.gemm_sm90", "linear/i8/m=65,n=8,k=24"), "k is 24, no multiple of 16");
  EXPECT_EQ(reason("cuda.gemm_sm90", "linear/f32/m=65,n=8,k=24"), "it does not take f32");
  for (const std::string dtype : {"f16", "i8"}) {
    const std::string problem = "linear/" + dtype + "/m=8192,n=768,k=768";
    EXPECT_EQ(reason("cuda.gemm_sm90[tile_n=160]", problem), "tiles of 160 columns are for bf16 alone");
    EXPECT_EQ(reason("cuda.gemm_sm90[tile_n=192]", problem), "");
  }

  EXPECT_EQ(reason("cuda.gemm_rows_sm90", "linear/f16/m=64,n=7,k=8"), "");
  EXPECT_EQ(reason("cuda.gemm_rows_sm90", "linear/i8/m=65,n=7,k=16"),
            "m is 65; beyond 64 it is slow, if in the same order");
  EXPECT_EQ(reason("cuda.gemm_rows_sm90", "linear/i8/m=1,n=7,k=8"), "k is 8, no multiple of 16");
  EXPECT_EQ(reason("cuda.gemm_rows_sm90", "fused_linear/bf16/m=1,n=16,k=8,gated"), "");
  // The order of a sum is not for tuning: 132 tiles of 64 rows are few enough to share a sum of 768, 133 are not.
  const std::string wide = "cuda.gemm_rows_sm90[tile_rows=128]";
  EXPECT_THAT(reason(wide, "linear/bf16/m=8,n=8448,k=768"), HasSubstr("a sum is shared"));
  EXPECT_EQ(reason(wide, "linear/bf16/m=8,n=8449,k=768"), "");
  EXPECT_EQ(reason(wide, "linear/bf16/m=8,n=8448,k=760"), "");
  EXPECT_EQ(reason("cuda.gemm_rows_sm90[tile_rows=64]", "linear/bf16/m=8,n=33792,k=768"), "it takes 64 by itself");
  EXPECT_EQ(reason(wide, "linear/bf16/m=8,n=33793,k=768"), "it takes 128 by itself");
  EXPECT_EQ(reason("cuda.gemm_rows_sm90[tile_rows=64]", "linear/bf16/m=8,n=33793,k=768"), "");

  EXPECT_EQ(reason("cuda.gemm_portable", "fused_linear/f32/m=9,n=7,k=5,activated,residual"), "");
  EXPECT_EQ(reason("cuda.gemm_portable", "linear/bf16/m=9,n=7,k=12"), "k is 12, no multiple of 8");
  EXPECT_EQ(reason("cuda.gemm_portable", "linear/i8/m=9,n=7,k=24"), "k is 24, no multiple of 16");

  const std::string gated = "fused_linear/bf16/m=8192,n=6144,k=768,gated";
  EXPECT_EQ(reason("cuda.gemm_sm90[tile_n=160]", gated), "half of tile_n is 80, no multiple of 32");
  EXPECT_EQ(reason("cuda.gemm_sm90[tile_n=192]", gated), "");

  const std::string attention = "attention/bf16/batch=1,heads=12,kv_heads=12,q_tokens=9,kv_tokens=";
  const std::string kernel = "cuda.fused_attention_sm90";
  EXPECT_EQ(reason(kernel, attention + "9,head_dim=80,causal"), "");
  EXPECT_EQ(reason(kernel, attention + "8,head_dim=80"), "");
  EXPECT_EQ(reason(kernel, attention + "8,head_dim=80,causal"), "causal with fewer keys than queries");
  EXPECT_EQ(reason(kernel, attention + "9,head_dim=136"), "head_dim is 136; it takes at most 128");
  EXPECT_EQ(reason(kernel, attention + "9,head_dim=60"), "head_dim is 60, no multiple of 8");
  EXPECT_EQ(reason(kernel, "attention/bf16/batch=1,heads=12,kv_heads=5,q_tokens=1,kv_tokens=1,head_dim=64"),
            "heads is no multiple of kv_heads");

  EXPECT_EQ(reason(kernel, "attention/f16/batch=1,heads=1,kv_heads=1,q_tokens=1,kv_tokens=1,head_dim=64"),
            "it does not take f16");
  const std::string sm80 = "cuda.fused_attention_sm80", plain = "cuda.fused_attention_plain";
  EXPECT_EQ(reason(sm80, attention + "8,head_dim=80,causal"), "causal with fewer keys than queries");
  EXPECT_EQ(reason(sm80, attention + "9,head_dim=136"), "head_dim is 136; it takes at most 128");
  EXPECT_EQ(reason(plain, attention + "9,head_dim=136"), "");
  EXPECT_EQ(reason(plain, attention + "9,head_dim=264"), "head_dim is 264; it takes at most 256");
  EXPECT_EQ(reason(plain, attention + "8,head_dim=80,causal"), "causal with fewer keys than queries");
  EXPECT_THAT(Texts(Ours("attention/f16/batch=1,heads=1,kv_heads=1,q_tokens=1,kv_tokens=1,head_dim=64", Hopper())),
              ElementsAre(sm80, plain));
  EXPECT_THAT(Texts(Ours("attention/f32/batch=1,heads=1,kv_heads=1,q_tokens=1,kv_tokens=1,head_dim=64", Hopper())),
              ElementsAre(plain));

  const std::string paged = "paged_attention/f16/rows=8,heads=9,kv_heads=3,context=1000,head_dim=";
  EXPECT_THAT(Texts(Ours(paged + "64", Hopper())),
              ElementsAre("cuda.paged_attention", "cuda.paged_attention[blocks_per_row=8]",
                          "cuda.paged_attention[blocks_per_row=2]", "cuda.paged_attention[blocks_per_row=1]"));
  EXPECT_EQ(Reason(Ours(paged + "64", Ampere()), "cuda.paged_attention[blocks_per_row=8]"),
            "blocks share a row on compute capability 9.0 alone");
  EXPECT_EQ(reason("cuda.paged_attention", paged + "264"), "head_dim is 264; it takes at most 256");

  for (const std::string dtype : {"f32", "f16", "bf16"}) {
    EXPECT_THAT(Texts(Ours("rms_norm/" + dtype + "/rows=1,columns=50257", Hopper())), ElementsAre("cuda.norm"));
    EXPECT_THAT(Texts(Ours("softmax/" + dtype + "/rows=1,columns=50257", Hopper())), ElementsAre("cuda.softmax"));
    EXPECT_THAT(Texts(Ours("quantize/" + dtype + "/rows=1,columns=768", Hopper())), ElementsAre("cuda.quantize"));
  }
  EXPECT_EQ(reason("cuda.norm", "rms_norm/i8/rows=1,columns=8"), "it does not take i8");
  EXPECT_EQ(reason("cuda.quantize", "quantize/bf16/rows=1,columns=32776"),
            "rows of 32776 columns; it takes at most 32768");
  EXPECT_EQ(reason("cuda.quantize", "quantize/bf16/rows=1,columns=12"), "columns is 12, no multiple of 8");
}

TEST(CandidatesTest, CapabilityDecides) {
  const std::string gemm = "linear/bf16/m=32,n=768,k=768";
  EXPECT_EQ(Reason(Ours(gemm, Ampere()), "cuda.gemm_sm90"), "it needs compute capability 9.0; A has 8.0");
  EXPECT_EQ(Reason(Ours(gemm, Ampere()), "cuda.gemm_rows_sm90"), "it needs compute capability 9.0; A has 8.0");
  EXPECT_THAT(Texts(Ours(gemm, Ampere())), ElementsAre("cuda.gemm_skinny", "cuda.gemm_portable"));
  EXPECT_EQ(Reason(Ours(gemm, *CudaLimits("B", "sm_120", 188)), "cuda.gemm_sm90"),
            "it runs on compute capability 9.0 alone; B has 12.0");
  EXPECT_EQ(Reason(Ours(gemm, *CudaLimits("T", "sm_75", 40)), "cuda.gemm_skinny"),
            "it needs compute capability 8.0 or higher; T has 7.5");
  EXPECT_THAT(CudaLimits("X", "sm_42", 10).status().message(), HasSubstr("nothing is known of architecture \"sm_42\""));
  EXPECT_THAT(CudaLimits("X", "x86-64", 10).status().message(), HasSubstr("x86-64"));
  EXPECT_THAT(CudaLimits("X", "sm_80", 0).status().message(), HasSubstr("sm_count"));
}

TEST(CandidatesTest, TheResourceModelPrunes) {
  // What the widest tile takes, to the byte and the register.
  const std::string gemm = "linear/bf16/m=8192,n=768,k=768";
  const auto reason = [&](const DeviceLimits& device) {
    return Reason(Ours(gemm, device), "cuda.gemm_sm90[tile_n=192]");
  };
  DeviceLimits device = Hopper();
  device.shared_bytes_per_block = 3 * (128 + 192) * 64 * 2 + 65536 + 256 + 2 * 192 * 2;
  EXPECT_EQ(reason(device), "");
  --device.shared_bytes_per_block;
  EXPECT_EQ(reason(device), "189440 bytes of shared memory a block; sm_90a has 189439");
  EXPECT_EQ(Reason(Ours(gemm, device), "cuda.gemm_sm90[tile_n=160]"), "");  // a narrower one still fits

  device = Hopper();
  device.registers_per_block = 384 * 168;
  EXPECT_EQ(reason(device), "");
  --device.registers_per_block;
  EXPECT_EQ(reason(device), "64512 registers a block; sm_90a has 64511");
  device = Hopper();
  device.registers_per_thread = 167;
  EXPECT_EQ(reason(device), "168 registers a thread; sm_90a allows 167");
  device = Hopper();
  device.threads_per_block = 383;
  EXPECT_EQ(reason(device), "a block of 384 threads; sm_90a allows 383");

  // Attention's largest forms fit Hopper, and no less: two rings of four blocks of 16 KiB and 48 KiB of queries.
  device = Hopper();
  const std::string attention = "attention/bf16/batch=1,heads=1,kv_heads=1,q_tokens=1,kv_tokens=1,head_dim=64";
  device.shared_bytes_per_block = (128 + 48) * 1024 + 8 * (16 + 12);
  EXPECT_EQ(Texts(Ours(attention, device))[0], "cuda.fused_attention_sm90");
  --device.shared_bytes_per_block;
  EXPECT_EQ(Texts(Ours(attention, device))[0], "cuda.fused_attention_sm80");
}

TEST(CandidatesTest, OtherProvidersRunWhereTheyAreToBeHad) {
  const Problem problem = P("linear/bf16/m=8192,n=3072,k=768");
  const auto without = *FindCandidates(problem, Hopper(), TacticsFilter::kAll, {});
  EXPECT_EQ(Reason(without, "cublaslt.matmul"), "cublaslt is not available here");
  const auto with = *FindCandidates(problem, Hopper(), TacticsFilter::kAll, {Provider::kCublasLt});
  EXPECT_EQ(Texts(with).back(), "cublaslt.matmul");
  const auto ours = *FindCandidates(problem, Hopper(), TacticsFilter::kOurs, {Provider::kCublasLt});
  EXPECT_EQ(Reason(ours, "cublaslt.matmul"), "it is cublaslt's, not ours");
  const auto gated = *FindCandidates(P("fused_linear/bf16/m=8,n=3072,k=768,gated"), Hopper(), TacticsFilter::kAll,
                                     {Provider::kCublasLt});
  EXPECT_EQ(Reason(gated, "cublaslt.matmul"), "it has no gated epilogue");
  EXPECT_EQ(Reason(Ours("attention/bf16/batch=1,heads=1,kv_heads=1,q_tokens=1,kv_tokens=1,head_dim=64", Hopper()),
                   "triton.fused_attention"),
            "it is triton's, not ours");
  EXPECT_EQ(*ParseTacticsFilter("ours"), TacticsFilter::kOurs);
  EXPECT_EQ(*ParseTacticsFilter("all"), TacticsFilter::kAll);
  EXPECT_THAT(ParseTacticsFilter("mine").status().message(), HasSubstr("expected \"ours\" or \"all\""));
}

TEST(CandidatesTest, TheDefaultsOfTheCpuComeFirst) {
  for (const char* problem :
       {"linear/bf16/m=1,n=2304,k=768", "linear/f32/m=16,n=768,k=3072", "fused_linear/f32/m=512,n=3072,k=768,gated"}) {
    const Candidates found = Ours(problem, Cpu());
    ASSERT_FALSE(found.tactics.empty());
    EXPECT_EQ(found.tactics[0].config, DefaultConfig(*found.tactics[0].spec)) << problem;
    // One change each, then two.
    EXPECT_EQ(std::ranges::count(Texts(found)[1], ','), 0);
    size_t space = 1;
    for (const Parameter& parameter : found.tactics[0].spec->parameters) space *= parameter.values.size();
    EXPECT_EQ(found.tactics.size() + found.refused.size(), space);
  }
}

TEST(CandidatesTest, WhatDoesNothingOnTheCpuIsNotRunTwice) {
  const auto reason = [](const std::string& change, const std::string& sizes, const DeviceLimits& device) {
    return Reason(Ours("linear/bf16/" + sizes, device), "cpu.linear.panel16[" + change + "]");
  };
  const std::string one = "m=1,n=2304,k=768", some = "m=100,n=2304,k=768", deep = "m=300,n=768,k=3072";
  EXPECT_THAT(reason("block_rows=64", one, Cpu()), HasSubstr("not cut into blocks"));
  EXPECT_THAT(reason("block_k=384", one, Cpu()), HasSubstr("not cut into blocks"));
  EXPECT_EQ(reason("block_k=384", some, Cpu()), "");
  EXPECT_EQ(reason("block_k=1536", some, Cpu()), "a depth of 768 is one block all the same");
  EXPECT_EQ(reason("block_k=1536", deep, Cpu()), "");
  EXPECT_EQ(reason("block_rows=256", some, Cpu()), "the 100 rows of the problem are one block all the same");
  EXPECT_EQ(reason("block_rows=64", some, Cpu()), "");
  EXPECT_EQ(reason("block_rows=256", deep, Cpu()), "");
  EXPECT_EQ(reason("prefetch_bytes=512", one, Cpu()), "");
  EXPECT_THAT(reason("prefetch_bytes=512", "m=9,n=2304,k=768", Cpu()), HasSubstr("one tile"));
  EXPECT_EQ(reason("prefetch_bytes=512", "m=8,n=2304,k=768", Cpu()), "");
  // With tiles of four rows, five are two tiles.
  EXPECT_THAT(reason("tile_rows=4,prefetch_bytes=512", "m=5,n=2304,k=768", Cpu()), HasSubstr("one tile"));
  EXPECT_THAT(reason("task_columns=96", "m=15,n=2304,k=768", Cpu()), HasSubstr("fewer than 16 rows"));
  EXPECT_EQ(reason("task_columns=96", "m=16,n=2304,k=768", Cpu()), "");
  EXPECT_EQ(reason("tile_rows=4", "m=4,n=2304,k=768", Cpu()), "no tile has more than the 4 rows of the problem");
  EXPECT_EQ(reason("tile_rows=4", "m=5,n=2304,k=768", Cpu()), "");

  // Few rows read four panels side by side, many three.
  EXPECT_EQ(reason("tile_panels=3", one, Cpu()), "");
  EXPECT_EQ(reason("tile_panels=3", some, Cpu()),
            "a tile of 3 panels; this CPU's registers hold 3, which is the default");
  DeviceLimits small = Cpu();
  small.tile_rows = 6;
  EXPECT_EQ(reason("tile_rows=6", some, small), "a tile of 6 rows; this CPU's registers hold 6, which is the default");
  EXPECT_EQ(reason("tile_rows=6", some, Cpu()), "");

  EXPECT_EQ(reason("block_rows=256,block_k=1536", deep, Cpu()), "");
  small.l2_bytes = 256 * 1536 * 4 - 1;
  EXPECT_EQ(reason("block_rows=256,block_k=1536", deep, small),
            "a block of x of 1572864 bytes; the L2 cache of a core has 1572863");
  small.l2_bytes = 0;  // not known: not held against it
  EXPECT_EQ(reason("block_rows=256,block_k=1536", deep, small), "");
  small.l2_bytes = 1;  // the default runs wherever it must
  EXPECT_EQ(Texts(Ours("linear/f32/" + deep, small))[0], "cpu.linear.panel16");
}

class OneConfig : public TunedConfigs {
 public:
  explicit OneConfig(Config config) : config_(std::move(config)) {}
  const Config* Find(const TacticSpec& spec, const Problem&) const override {
    return spec.kernel == "cuda.gemm_sm90" ? &config_ : nullptr;
  }

 private:
  Config config_;
};

TEST(ChooseTacticTest, TunedBeatsModelBeatsNothing) {
  const Problem problem = P("linear/bf16/m=8192,n=3072,k=768");
  const auto model = ChooseTactic(problem, Hopper(), TacticsFilter::kOurs, {}, nullptr);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(TacticToText(model->tactic), "cuda.gemm_sm90[tile_n=192]");
  EXPECT_FALSE(model->tuned);
  const OneConfig tuned({160});
  const auto found = ChooseTactic(problem, Hopper(), TacticsFilter::kOurs, {}, &tuned);
  EXPECT_EQ(TacticToText(found->tactic), "cuda.gemm_sm90[tile_n=160]");
  EXPECT_TRUE(found->tuned);
  // A tuned config that the problem does not allow is not run.
  const auto gated =
      ChooseTactic(P("fused_linear/bf16/m=8192,n=6144,k=768,gated"), Hopper(), TacticsFilter::kOurs, {}, &tuned);
  EXPECT_NE(TacticToText(gated->tactic), "cuda.gemm_sm90[tile_n=160]");
  EXPECT_FALSE(gated->tuned);
  // Few rows have a kernel of their own.
  EXPECT_EQ(
      TacticToText(ChooseTactic(P("linear/bf16/m=8,n=3072,k=768"), Hopper(), TacticsFilter::kOurs, {}, &tuned)->tactic),
      "cuda.gemm_rows_sm90");
  // What no tensor core computes has one too.
  EXPECT_EQ(
      TacticToText(ChooseTactic(P("linear/f32/m=8,n=3072,k=768"), Hopper(), TacticsFilter::kOurs, {}, &tuned)->tactic),
      "cuda.gemm_portable");

  const absl::Status none =
      ChooseTactic(P("linear/i8/m=8,n=3072,k=24"), Hopper(), TacticsFilter::kOurs, {}, nullptr).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(none.message()), AllOf(StartsWith("no kernel for linear/i8/m=8,n=3072,k=24 on H (sm_90a): "),
                                                 HasSubstr("cuda.gemm_sm90 refused: k is 24, no multiple of 16"),
                                                 HasSubstr("cublaslt.matmul refused: it is cublaslt's, not ours")));
}

}  // namespace
}  // namespace flashflow::kernels
