#include "compiler/passes/fuse_attention_pass.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/substitute.h"
#include "compiler/passes/canonicalize_pass.h"
#include "compiler/passes/dce_pass.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

using ::testing::AssertionResult;

// Queries %3 and %4 = k, %5 = v; %1 are the positions.
std::string Graph(std::string_view body) {
  return absl::StrCat(R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 64]
      input %ids "input_ids" : i64[B, S]
      input %positions "position_ids" : i64[B, S]
      input %padding "padding" : bool[B, 1, 1, S]
      input %q "q" : f32[B, 4, S, 8]
      input %k "k" : f32[B, 4, S, 8]
      input %v "v" : f32[B, 4, S, 8]
      input %bias "bias" : f32[1, 4, S, S]
      %i = iota() {axis = 2, dtype = i64, shape = dims(1, 1, S, 1)} : i64[1, 1, S, 1]
      %j = iota() {axis = 3, dtype = i64, shape = dims(1, 1, 1, S)} : i64[1, 1, 1, S]
      %zero = constant() {dtype = f32, value = 0.0} : f32[]
      %least = constant() {dtype = f32, value = -3.4028234663852886e+38} : f32[]
      %inf = constant() {dtype = f32, value = -inf} : f32[]
      %scale = constant() {dtype = f32, value = 0.25} : f32[]
      )ir",
                      body, "\noutput \"y\" %y\n");
}

// scores(kt, scaled), `middle` from %scaled to %masked, then softmax and the values.
std::string WrittenOut(std::string_view middle) {
  return absl::StrCat(R"(
      %kt = transpose(%k) {perm = [0, 1, 3, 2]} : f32[B, 4, 8, S]
      %scores = matmul(%q, %kt) : f32[B, 4, S, S]
      %scaled = mul(%scores, %scale) : f32[B, 4, S, S]
      )",
                      middle, R"(
      %w = softmax(%masked) {axis = 3} : f32[B, 4, S, S]
      %y = matmul(%w, %v) : f32[B, 4, S, 8])");
}

AssertionResult Fuses(std::string_view body, std::string_view attrs) {
  return CheckPasses(MakePassList<FuseAttentionPass, DcePass>(),
                     absl::StrCat(Graph(body), "// CHECK: input %6\n// CHECK-NEXT: %7 = attention(%3, %4, %5) {", attrs,
                                  "} : f32[B, 4, S, 8]\n// CHECK-NEXT: output \"y\" %7\n}"));
}

AssertionResult Refuses(std::string_view body, std::string_view reason) {
  return CheckRefused<FuseAttentionPass>(absl::StrCat(Graph(body), "}"), reason);
}

// Fuses with a mask as the op's fourth operand, and says why.
AssertionResult KeepsMask(std::string_view body, std::string_view reason, const CompileOptions& options = {}) {
  const PassRun run = RunPasses(MakePassList<FuseAttentionPass, DcePass>(), absl::StrCat(Graph(body), "}"), options);
  if (!run.error.empty()) return ::testing::AssertionFailure() << run.error;
  const bool masked = absl::StrContains(run.after, "= attention(%3, %4, %5, %") &&
                      absl::StrContains(run.after, "{causal = false, scale = 0.25}") &&
                      !absl::StrContains(run.after, "softmax");
  if (!masked) return ::testing::AssertionFailure() << run.after;
  for (const Remark& remark : run.records[0].remarks) {
    if (absl::StrContains(remark.reason, "its mask stays an operand: ") && absl::StrContains(remark.reason, reason)) {
      return ::testing::AssertionSuccess();
    }
  }
  return ::testing::AssertionFailure() << "no remark says so";
}

TEST(FuseAttentionPassTest, FusesWithoutAMask) {
  EXPECT_TRUE(Fuses(absl::StrReplaceAll(WrittenOut(""), {{"%masked", "%scaled"}}), "causal = false, scale = 0.25"));
}

TEST(FuseAttentionPassTest, TakesScalesFromQueriesAndKeys) {
  EXPECT_TRUE(Fuses(R"(
      %qs = mul(%q, %scale) : f32[B, 4, S, 8]
      %two = constant() {dtype = f32, value = 2.0} : f32[]
      %ks = mul(%two, %k) : f32[B, 4, S, 8]
      %kt = transpose(%ks) {perm = [0, 1, 3, 2]} : f32[B, 4, 8, S]
      %scores = matmul(%qs, %kt) : f32[B, 4, S, S]
      %w = softmax(%scores) {axis = 3} : f32[B, 4, S, S]
      %y = matmul(%w, %v) : f32[B, 4, S, 8])",
                    "causal = false, scale = 0.5"));
}

TEST(FuseAttentionPassTest, ReadsACausalMask) {
  // Added, chosen by where either way round, and made with triu as nn.Transformer does.
  EXPECT_TRUE(Fuses(WrittenOut(R"(
      %sees = le(%j, %i) : bool[1, 1, S, S]
      %mask = where(%sees, %zero, %least) : f32[1, 1, S, S]
      %masked = add(%scaled, %mask) : f32[B, 4, S, S])"),
                    "causal = true, scale = 0.25"));
  EXPECT_TRUE(Fuses(WrittenOut(R"(
      %hidden = gt(%j, %i) : bool[1, 1, S, S]
      %masked = where(%hidden, %inf, %scaled) : f32[B, 4, S, S])"),
                    "causal = true, scale = 0.25"));
  EXPECT_TRUE(Fuses(WrittenOut(R"(
      %full = constant() {dtype = f32, value = -inf, shape = dims(S, S)} : f32[S, S]
      %r = iota() {axis = 0, dtype = i64, shape = dims(S, S)} : i64[S, S]
      %c = iota() {axis = 1, dtype = i64, shape = dims(S, S)} : i64[S, S]
      %d = sub(%c, %r) : i64[S, S]
      %one = constant() {dtype = i64, value = 1.0} : i64[]
      %above = ge(%d, %one) : bool[S, S]
      %mask = where(%above, %full, %zero) : f32[S, S]
      %masked = add(%mask, %scaled) : f32[B, 4, S, S])"),
                    "causal = true, scale = 0.25"));
}

TEST(FuseAttentionPassTest, ReadsASlidingWindow) {
  EXPECT_TRUE(Fuses(WrittenOut(R"(
      %causal = le(%j, %i) : bool[1, 1, S, S]
      %five = constant() {dtype = i64, value = 5.0} : i64[]
      %first = sub(%i, %five) : i64[1, 1, S, 1]
      %near = gt(%j, %first) : bool[1, 1, S, S]
      %sees = logical_and(%near, %causal) : bool[1, 1, S, S]
      %mask = where(%sees, %zero, %inf) : f32[1, 1, S, S]
      %masked = add(%scaled, %mask) : f32[B, 4, S, S])"),
                    "causal = true, scale = 0.25, window = 5"));
}

// The mask of transformers' models: positions, and sequences told apart where positions jump.
constexpr std::string_view kPackedSequences = R"(
      %one = constant() {dtype = i64, value = 1.0} : i64[]
      %first = slice(%positions) {axis = 1, start = dim(0), stop = dim(1)} : i64[B, 1]
      %before = sub(%first, %one) : i64[B, 1]
      %longer = concat(%before, %positions) {axis = 1} : i64[B, S + 1]
      %later = slice(%longer) {axis = 1, start = dim(1), stop = dim(S + 1)} : i64[B, S]
      %earlier = slice(%longer) {axis = 1, start = dim(0), stop = dim(S)} : i64[B, S]
      %diff = sub(%later, %earlier) : i64[B, S]
      %jump = ne(%diff, %one) : bool[B, S]
      %jumps = cast(%jump) {dtype = i64} : i64[B, S]
      %sequence = cumsum(%jumps) {axis = 1} : i64[B, S]
      %b = iota() {axis = 0, dtype = i64, shape = dims(B, 1, 1, 1)} : i64[B, 1, 1, 1]
      %si = index(%sequence, %b, %i) : i64[B, 1, S, 1]
      %sj = index(%sequence, %b, %j) : i64[B, 1, 1, S]
      %same = eq(%si, %sj) : bool[B, 1, S, S]
      %pi = index(%positions, %b, %i) : i64[B, 1, S, 1]
      %pj = index(%positions, %b, %j) : i64[B, 1, 1, S]
      %past = le(%pj, %pi) : bool[B, 1, S, S]
      %sees = logical_and(%same, %past) : bool[B, 1, S, S]
      %mask = where(%sees, %zero, %least) : f32[B, 1, S, S]
      %masked = add(%scaled, %mask) : f32[B, 4, S, S])";

TEST(FuseAttentionPassTest, ReadsTheMaskOfPackedSequences) {
  EXPECT_TRUE(Fuses(WrittenOut(kPackedSequences), "causal = true, scale = 0.25"));
}

TEST(FuseAttentionPassTest, BelievesPositionsToRiseOnlyWhereTheOptionsSaySo) {
  EXPECT_TRUE(
      KeepsMask(WrittenOut(kPackedSequences), "it is no condition on places alone", {.consecutive_positions = 0}));
}

TEST(FuseAttentionPassTest, ReadsTheMaskOfTheOp) {
  EXPECT_TRUE(Fuses(R"(
      %sees = ge(%i, %j) : bool[1, 1, S, S]
      %y = attention(%q, %k, %v, %sees) {causal = false, scale = 0.25} : f32[B, 4, S, 8])",
                    "causal = true, scale = 0.25"));
  EXPECT_TRUE(Fuses(R"(
      %sees = constant() {dtype = bool, value = 1.0, shape = dims(S, S)} : bool[S, S]
      %y = attention(%q, %k, %v, %sees) {causal = false, scale = 0.25} : f32[B, 4, S, 8])",
                    "causal = false, scale = 0.25"));
}

TEST(FuseAttentionPassTest, SharesRepeatedHeads) {
  EXPECT_TRUE(CheckPasses(MakePassList<FuseAttentionPass, DcePass>(), R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 64]
      input %q "q" : f32[B, 4, S, 8]
      input %k "k" : f32[B, 2, S, 8]
      input %v "v" : f32[B, 2, S, 8]
      %k5 = reshape(%k) {shape = dims(B, 2, 1, S, 8)} : f32[B, 2, 1, S, 8]
      %ke = expand(%k5) {shape = dims(B, 2, 2, S, 8)} : f32[B, 2, 2, S, 8]
      %kr = reshape(%ke) {shape = dims(B, 4, S, 8)} : f32[B, 4, S, 8]
      %v5 = reshape(%v) {shape = dims(B, 2, 1, S, 8)} : f32[B, 2, 1, S, 8]
      %ve = expand(%v5) {shape = dims(B, 2, 2, S, 8)} : f32[B, 2, 2, S, 8]
      %vr = reshape(%ve) {shape = dims(B, 4, S, 8)} : f32[B, 4, S, 8]
      %y = attention(%q, %kr, %vr) {causal = true, scale = 0.25} : f32[B, 4, S, 8]
      output "y" %y
      // CHECK: %3 = reshape(%1) {shape = dims(B, 2, 1, S, 8)}
      // CHECK: %5 = reshape(%3) {shape = dims(B, 2, S, 8)} : f32[B, 2, S, 8]
      // CHECK-NEXT: %6 = reshape(%4) {shape = dims(B, 2, S, 8)} : f32[B, 2, S, 8]
      // CHECK-NEXT: %7 = attention(%0, %5, %6) {causal = true, scale = 0.25}
    })ir"));
}

// Scores in f32 and weights back in bf16, keys transposed together with their heads.
TEST(FuseAttentionPassTest, LooksThroughCastsAndJoinedTransposes) {
  EXPECT_TRUE(CheckPasses(MakePassList<FuseAttentionPass, DcePass>(), R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 64]
      input %q "q" : bf16[B, 4, S, 8]
      input %k "k" : bf16[B, S, 4, 8]
      input %v "v" : bf16[B, 4, S, 8]
      %kt = transpose(%k) {perm = [0, 2, 3, 1]} : bf16[B, 4, 8, S]
      %scores = matmul(%q, %kt) : bf16[B, 4, S, S]
      %wide = cast(%scores) {dtype = f32} : f32[B, 4, S, S]
      %w = softmax(%wide) {axis = 3} : f32[B, 4, S, S]
      %narrow = cast(%w) {dtype = bf16} : bf16[B, 4, S, S]
      %y = matmul(%narrow, %v) : bf16[B, 4, S, 8]
      output "y" %y
      // CHECK: %4 = transpose(%3) {perm = [0, 1, 3, 2]} : bf16[B, 4, S, 8]
      // CHECK-NEXT: %5 = attention(%0, %4, %2) {causal = false, scale = 1.0} : bf16[B, 4, S, 8]
    })ir"));
}

// Of ones and zeros, as older models make theirs.
TEST(FuseAttentionPassTest, ReadsAMaskOfOnes) {
  const auto masked = [](std::string_view hidden) {
    return WrittenOut(absl::StrCat("%sees = le(%j, %i) : bool[1, 1, S, S]\n",
                                   "%one = constant() {dtype = f32, value = 1.0} : f32[]\n", hidden, R"(
      %mask = mul(%hidden, %least) : f32[1, 1, S, S]
      %masked = add(%scaled, %mask) : f32[B, 4, S, S])"));
  };
  constexpr std::string_view kCausal = "causal = true, scale = 0.25";
  EXPECT_TRUE(Fuses(masked(R"(
      %ones = cast(%sees) {dtype = f32} : f32[1, 1, S, S]
      %hidden = sub(%one, %ones) : f32[1, 1, S, S])"),
                    kCausal));
  EXPECT_TRUE(Fuses(masked(R"(
      %above = gt(%j, %i) : bool[1, 1, S, S]
      %hidden = where(%above, %one, %zero) : f32[1, 1, S, S])"),
                    kCausal));
  EXPECT_TRUE(Fuses(masked(R"(
      %ones = where(%sees, %one, %zero) : f32[1, 1, S, S]
      %flat = reshape(%ones) {shape = dims(S, S)} : f32[S, S]
      %gone = eq(%flat, %zero) : bool[S, S]
      %number = cast(%gone) {dtype = f32} : f32[S, S]
      %hidden = reshape(%number) {shape = dims(1, 1, S, S)} : f32[1, 1, S, S])"),
                    kCausal));
  // Times -infinity a 0 is NaN.
  EXPECT_TRUE(KeepsMask(absl::StrReplaceAll(masked(R"(
      %ones = cast(%sees) {dtype = f32} : f32[1, 1, S, S]
      %hidden = sub(%one, %ones) : f32[1, 1, S, S])"),
                                            {{"%hidden, %least", "%hidden, %inf"}}),
                        "it is no condition on places alone"));
}

TEST(FuseAttentionPassTest, KeepsOtherMasksAsTheOpsOwn) {
  const auto masked_by = [](std::string_view sees, std::string_view type) {
    return WrittenOut(absl::StrCat(sees, "\n%mask = where(%sees, %zero, %least) : f32", type,
                                   "\n%masked = add(%scaled, %mask) : f32[B, 4, S, S]"));
  };
  EXPECT_TRUE(KeepsMask(WrittenOut("%masked = add(%scaled, %bias) : f32[B, 4, S, S]"),
                        "its mask is not causal: it is no condition on places alone"));
  EXPECT_TRUE(KeepsMask(masked_by("%sees = logical_or(%padding, %padding) : bool[B, 1, 1, S]", "[B, 1, 1, S]"),
                        "its mask is not causal: it is no condition on places alone"));
  EXPECT_TRUE(KeepsMask(masked_by("%sees = lt(%j, %i) : bool[1, 1, S, S]", "[1, 1, S, S]"),
                        "query i sees keys up to i + -1, expected i + 0"));
  EXPECT_TRUE(KeepsMask(masked_by("%sees = ge(%j, %i) : bool[1, 1, S, S]", "[1, 1, S, S]"),
                        "its mask is a window, but not causal"));
  EXPECT_TRUE(KeepsMask(masked_by("%one = constant() {dtype = i64, value = 1.0} : i64[]\n"
                                  "%sees = le(%j, %one) : bool[1, 1, 1, S]",
                                  "[1, 1, 1, S]"),
                        "it does not compare the keys' places with the queries'"));
  // Chosen by where, the scores' places taken by a penalty: then the penalty is added.
  EXPECT_TRUE(KeepsMask(WrittenOut("%masked = where(%padding, %scaled, %least) : f32[B, 4, S, S]"),
                        "it is no condition on places alone"));
  EXPECT_TRUE(Refuses("%y = attention(%q, %k, %v, %padding) {causal = false, scale = 0.25} : f32[B, 4, S, 8]",
                      "its mask is not causal"));
}

TEST(FuseAttentionPassTest, RefusesMasksThatAreScaledOrTakeTheScoresPlace) {
  EXPECT_TRUE(Refuses(absl::StrReplaceAll(WrittenOut("%biased = add(%scores, %bias) : f32[B, 4, S, S]\n"
                                                     "%masked = mul(%biased, %scale) : f32[B, 4, S, S]"),
                                          {{"%scaled = mul(%scores, %scale) : f32[B, 4, S, S]", ""}}),
                      "it is no condition on places alone"));
  EXPECT_TRUE(Refuses(WrittenOut("%masked = where(%padding, %scaled, %zero) : f32[B, 4, S, S]"),
                      "it is no condition on places alone"));
}

// Batch and heads in one axis, as for bmm: taken apart again where they were merged, else one head for each.
TEST(FuseAttentionPassTest, FusesBatchedMatrices) {
  constexpr std::string_view kMerged = R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 64]
      symbol N [1, 64]
      input %q4 "q4" : f32[B, 4, S, 8]
      input %k4 "k4" : f32[B, 4, S, 8]
      input %v4 "v4" : f32[B, 4, S, 8]
      input %n "n" : f32[N, S, 8]
      input %bias "bias" : f32[N, S, S]
      %i = iota() {axis = 0, dtype = i64, shape = dims(S, 1)} : i64[S, 1]
      %j = iota() {axis = 1, dtype = i64, shape = dims(1, S)} : i64[1, S]
      %sees = le(%j, %i) : bool[S, S]
      %zero = constant() {dtype = f32, value = 0.0} : f32[]
      %inf = constant() {dtype = f32, value = -inf} : f32[]
      %mask = where(%sees, %zero, %inf) : f32[S, S]
      )ir";
  EXPECT_TRUE(CheckPasses(MakePassList<FuseAttentionPass, CanonicalizePass, DcePass>(), absl::StrCat(kMerged, R"(
      %q = reshape(%q4) {shape = dims(4*B, S, 8)} : f32[4*B, S, 8]
      %k = reshape(%k4) {shape = dims(4*B, S, 8)} : f32[4*B, S, 8]
      %v = reshape(%v4) {shape = dims(4*B, S, 8)} : f32[4*B, S, 8]
      %kt = transpose(%k) {perm = [0, 2, 1]} : f32[4*B, 8, S]
      %scores = matmul(%q, %kt) : f32[4*B, S, S]
      %masked = add(%scores, %mask) : f32[4*B, S, S]
      %w = softmax(%masked) {axis = 2} : f32[4*B, S, S]
      %o = matmul(%w, %v) : f32[4*B, S, 8]
      %y = reshape(%o) {shape = dims(B, 4, S, 8)} : f32[B, 4, S, 8]
      output "y" %y
      // CHECK: input %4
      // CHECK-NEXT: %5 = attention(%0, %1, %2) {causal = true, scale = 1.0} : f32[B, 4, S, 8]
      // CHECK-NEXT: output "y" %5
    })")));
  EXPECT_TRUE(CheckPasses(MakePassList<FuseAttentionPass, DcePass>(), absl::StrCat(kMerged, R"(
      %kt = transpose(%n) {perm = [0, 2, 1]} : f32[N, 8, S]
      %scores = matmul(%n, %kt) : f32[N, S, S]
      %masked = add(%scores, %bias) : f32[N, S, S]
      %w = softmax(%masked) {axis = 2} : f32[N, S, S]
      %y = matmul(%w, %n) : f32[N, S, 8]
      output "y" %y
      // CHECK: %8 = reshape(%4) {shape = dims(N, 1, S, S)} : f32[N, 1, S, S]
      // CHECK-NEXT: %9 = attention({{%[0-9]+, %[0-9]+, %[0-9]+}}, %8) {causal = false, scale = 1.0} : f32[N, 1, S, 8]
      // CHECK-NEXT: %10 = reshape(%9) {shape = dims(N, S, 8)} : f32[N, S, 8]
    })")));
}

TEST(FuseAttentionPassTest, RefusesWhatReadsTheWeights) {
  EXPECT_TRUE(Refuses(R"(
      %kt = transpose(%k) {perm = [0, 1, 3, 2]} : f32[B, 4, 8, S]
      %scores = matmul(%q, %kt) : f32[B, 4, S, S]
      %w = softmax(%scores) {axis = 3} : f32[B, 4, S, S]
      %z = matmul(%w, %v) : f32[B, 4, S, 8]
      %u = matmul(%w, %q) : f32[B, 4, S, 8]
      %y = add(%z, %u) : f32[B, 4, S, 8])",
                      "its weights are also used elsewhere"));
}

TEST(FuseAttentionPassTest, RefusesSoftmaxOverQueries) {
  EXPECT_TRUE(Refuses(R"(
      %kt = transpose(%k) {perm = [0, 1, 3, 2]} : f32[B, 4, 8, S]
      %scores = matmul(%q, %kt) : f32[B, 4, S, S]
      %w = softmax(%scores) {axis = 2} : f32[B, 4, S, S]
      %y = matmul(%w, %v) : f32[B, 4, S, 8])",
                      "its softmax is not over the keys"));
}

TEST(FuseAttentionPassTest, TakesAQuotientsScaleAndNoQuotientOfANumber) {
  constexpr std::string_view kFour = "%four = constant() {dtype = f32, value = 4.0} : f32[]\n";
  const auto scaled = [kFour](std::string_view by) {
    return absl::StrReplaceAll(WrittenOut(""),
                               {{"%masked", "%scaled"}, {"%scaled = mul(%scores, %scale)", absl::StrCat(kFour, by)}});
  };
  EXPECT_TRUE(Fuses(scaled("%scaled = div(%scores, %four)"), "causal = false, scale = 0.25"));
  const PassRun run =
      RunPasses(MakePassList<FuseAttentionPass>(), absl::StrCat(Graph(scaled("%scaled = div(%four, %scores)")), "}"));
  EXPECT_EQ(run.error, "");
  EXPECT_EQ(run.before, run.after);
  EXPECT_TRUE(Refuses(scaled("%scaled = mul(%scores, %inf)"), "its scale is not finite"));
}

TEST(FuseAttentionPassTest, TakesTheNarrowerOfTwoWindows) {
  for (const auto& [first, second] : {std::pair(5, 3), std::pair(3, 5)}) {
    EXPECT_TRUE(Fuses(WrittenOut(absl::Substitute(R"(
      %a = constant() {dtype = i64, value = $0.0} : i64[]
      %b = constant() {dtype = i64, value = $1.0} : i64[]
      %ia = sub(%i, %a) : i64[1, 1, S, 1]
      %ib = sub(%i, %b) : i64[1, 1, S, 1]
      %near = gt(%j, %ia) : bool[1, 1, S, S]
      %other = gt(%j, %ib) : bool[1, 1, S, S]
      %causal = le(%j, %i) : bool[1, 1, S, S]
      %both = logical_and(%near, %other) : bool[1, 1, S, S]
      %sees = logical_and(%both, %causal) : bool[1, 1, S, S]
      %mask = where(%sees, %zero, %inf) : f32[1, 1, S, S]
      %masked = add(%scaled, %mask) : f32[B, 4, S, S])",
                                                  first, second)),
                      "causal = true, scale = 0.25, window = 3"));
  }
}

TEST(FuseAttentionPassTest, KeepsMasksThatDifferBetweenSequencesOrHeads) {
  const auto masked_by = [](std::string_view sees, std::string_view shape) {
    return WrittenOut(
        absl::Substitute("$0 : bool$1\n%mask = where(%sees, %zero, %least) : f32$1\n"
                         "%masked = add(%scaled, %mask) : f32[B, 4, S, S]",
                         sees, shape));
  };
  constexpr std::string_view kReason = "it is not the same for all sequences and heads";
  // Places of keys against positions, which may begin anywhere; one more key for each sequence, or each head.
  EXPECT_TRUE(KeepsMask(masked_by("%b = iota() {axis = 0, dtype = i64, shape = dims(B, 1, 1, 1)} : i64[B, 1, 1, 1]\n"
                                  "%pj = index(%positions, %b, %j) : i64[B, 1, 1, S]\n%sees = le(%pj, %i)",
                                  "[B, 1, S, S]"),
                        kReason));
  EXPECT_TRUE(KeepsMask(masked_by("%b = iota() {axis = 0, dtype = i64, shape = dims(B, 1, 1, 1)} : i64[B, 1, 1, 1]\n"
                                  "%ib = add(%i, %b) : i64[B, 1, S, 1]\n%sees = le(%j, %ib)",
                                  "[B, 1, S, S]"),
                        kReason));
  EXPECT_TRUE(KeepsMask(masked_by("%h = iota() {axis = 1, dtype = i64, shape = dims(1, 4, 1, 1)} : i64[1, 4, 1, 1]\n"
                                  "%ih = add(%i, %h) : i64[1, 4, S, 1]\n%sees = le(%j, %ih)",
                                  "[1, 4, S, S]"),
                        kReason));
  EXPECT_TRUE(KeepsMask(masked_by("%sees = constant() {dtype = bool, shape = dims(S, S), value = 0.0}", "[S, S]"),
                        "hides every key"));
}

// A query before all keys sees none: the op gives zeros for it, the softmax of penalties alone does not.
TEST(FuseAttentionPassTest, KeepsTheMaskOfFewerKeysThanQueries) {
  const PassRun run = RunPasses(MakePassList<FuseAttentionPass, DcePass>(), R"ir(ffir 1
    graph @g {
      input %q "q" : f32[1, 4, 5, 8]
      input %k "k" : f32[1, 4, 3, 8]
      input %v "v" : f32[1, 4, 3, 8]
      %i = iota() {axis = 0, dtype = i64, shape = dims(5, 1)} : i64[5, 1]
      %j = iota() {axis = 1, dtype = i64, shape = dims(1, 3)} : i64[1, 3]
      %two = constant() {dtype = i64, value = 2.0} : i64[]
      %last = sub(%i, %two) : i64[5, 1]
      %sees = le(%j, %last) : bool[5, 3]
      %zero = constant() {dtype = f32, value = 0.0} : f32[]
      %least = constant() {dtype = f32, value = -3.4028234663852886e+38} : f32[]
      %mask = where(%sees, %zero, %least) : f32[5, 3]
      %kt = transpose(%k) {perm = [0, 1, 3, 2]} : f32[1, 4, 8, 3]
      %scores = matmul(%q, %kt) : f32[1, 4, 5, 3]
      %masked = add(%scores, %mask) : f32[1, 4, 5, 3]
      %w = softmax(%masked) {axis = 3} : f32[1, 4, 5, 3]
      %y = matmul(%w, %v) : f32[1, 4, 5, 8]
      output "y" %y
    })ir");
  EXPECT_EQ(run.error, "");
  EXPECT_TRUE(absl::StrContains(run.after, "= attention(%0, %1, %2, %")) << run.after;
  ASSERT_FALSE(run.records[0].remarks.empty());
  EXPECT_TRUE(absl::StrContains(run.records[0].remarks[0].reason, "there may be fewer keys than queries"));
}

TEST(FuseAttentionPassTest, RefusesTwoMasksOfWhichOneIsUnknown) {
  constexpr std::string_view kReason = "it is no condition on places alone";
  EXPECT_TRUE(Refuses(WrittenOut("%once = add(%scaled, %bias) : f32[B, 4, S, S]\n"
                                 "%masked = add(%once, %bias) : f32[B, 4, S, S]"),
                      kReason));
  EXPECT_TRUE(Refuses(WrittenOut(R"(
      %once = add(%scaled, %bias) : f32[B, 4, S, S]
      %sees = le(%j, %i) : bool[1, 1, S, S]
      %mask = where(%sees, %zero, %least) : f32[1, 1, S, S]
      %masked = add(%once, %mask) : f32[B, 4, S, S])"),
                      kReason));
  // What takes the hidden scores' place is hidden itself in some places alone.
  EXPECT_TRUE(Refuses(WrittenOut(R"(
      %sees = le(%j, %i) : bool[1, 1, S, S]
      %mask = where(%sees, %least, %zero) : f32[1, 1, S, S]
      %masked = where(%sees, %scaled, %mask) : f32[B, 4, S, S])"),
                      kReason));
}

TEST(FuseAttentionPassTest, RefusesMasksThatAScaleTurnsOrDiminishes) {
  for (std::string_view factor : {"-0.25", "1e-39"}) {
    EXPECT_TRUE(Refuses(absl::StrReplaceAll(WrittenOut(absl::Substitute(R"(
      %factor = constant() {dtype = f32, value = $0} : f32[]
      %sees = le(%j, %i) : bool[1, 1, S, S]
      %mask = where(%sees, %zero, %least) : f32[1, 1, S, S]
      %hidden = add(%scores, %mask) : f32[B, 4, S, S]
      %masked = mul(%hidden, %factor) : f32[B, 4, S, S])",
                                                                        factor)),
                                            {{"%scaled = mul(%scores, %scale) : f32[B, 4, S, S]", ""}}),
                        "a scale that is not positive, or tiny, follows its mask"));
  }
}

// Sequences of one batch, their keys or masks repeated for more.
TEST(FuseAttentionPassTest, LeavesWhatIsRepeatedForTheBatch) {
  constexpr std::string_view kOne = R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 64]
      input %q "q" : f32[B, 4, S, 8]
      input %q1 "q1" : f32[1, 4, S, 8]
      input %k1 "k1" : f32[1, 2, S, 8]
      input %v "v" : f32[B, 4, S, 8]
      )ir";
  constexpr std::string_view kProducts = R"(
      %kt = transpose(%keys) {perm = [0, 1, 3, 2]} : f32[B, 4, 8, S]
      %scores = matmul(%queries, %kt) : f32[B, 4, S, S]
      %w = softmax(%scores) {axis = 3} : f32[B, 4, S, S]
      %y = matmul(%w, %v) : f32[B, 4, S, 8]
      output "y" %y
      )";
  // Heads and batch at once; heads alone, but not the values'; heads that become sequences.
  EXPECT_TRUE(
      CheckPasses(MakePassList<FuseAttentionPass, DcePass>(),
                  absl::StrCat(kOne, R"(
      %k5 = reshape(%k1) {shape = dims(1, 2, 1, S, 8)} : f32[1, 2, 1, S, 8]
      %v5 = reshape(%k1) {shape = dims(1, 2, 1, S, 8)} : f32[1, 2, 1, S, 8]
      %ke = expand(%k5) {shape = dims(B, 2, 2, S, 8)} : f32[B, 2, 2, S, 8]
      %ve = expand(%v5) {shape = dims(B, 2, 2, S, 8)} : f32[B, 2, 2, S, 8]
      %kr = reshape(%ke) {shape = dims(B, 4, S, 8)} : f32[B, 4, S, 8]
      %vr = reshape(%ve) {shape = dims(B, 4, S, 8)} : f32[B, 4, S, 8]
      )",
                               absl::StrReplaceAll(kProducts, {{"%keys", "%kr"}, {"%queries", "%q"}, {"%v)", "%vr)"}}),
                               R"(
      // CHECK: %8 = reshape(%6) {shape = dims(B, 4, S, 8)}
      // CHECK-NEXT: %9 = reshape(%7) {shape = dims(B, 4, S, 8)}
      // CHECK-NEXT: %10 = attention(%0, %8, %9)
    })")));
  EXPECT_TRUE(CheckPasses(MakePassList<FuseAttentionPass, DcePass>(),
                          absl::StrCat(kOne, R"(
      %kb = slice(%v) {axis = 1, start = dim(0), stop = dim(2)} : f32[B, 2, S, 8]
      %k5 = reshape(%kb) {shape = dims(B, 2, 1, S, 8)} : f32[B, 2, 1, S, 8]
      %ke = expand(%k5) {shape = dims(B, 2, 2, S, 8)} : f32[B, 2, 2, S, 8]
      %kr = reshape(%ke) {shape = dims(B, 4, S, 8)} : f32[B, 4, S, 8]
      )",
                                       absl::StrReplaceAll(kProducts, {{"%keys", "%kr"}, {"%queries", "%q"}}),
                                       R"(
      // CHECK: %7 = reshape(%6) {shape = dims(B, 4, S, 8)}
      // CHECK-NEXT: %8 = attention(%0, %7, %3)
    })")));
  // A number for each sequence of the batch is no scale.
  EXPECT_TRUE(CheckPasses(MakePassList<FuseAttentionPass, DcePass>(),
                          absl::StrCat(kOne, R"(
      %each = constant() {dtype = f32, shape = dims(B, 1, 1, 1), value = 0.5} : f32[B, 1, 1, 1]
      %qs = mul(%q1, %each) : f32[B, 4, S, 8]
      )",
                                       absl::StrReplaceAll(kProducts, {{"%keys", "%v"}, {"%queries", "%qs"}}),
                                       R"(
      // CHECK: %5 = mul(%1, %4)
      // CHECK-NEXT: %6 = attention(%5, %3, %3) {causal = false, scale = 1.0}
    })")));
  EXPECT_TRUE(CheckRefused<FuseAttentionPass>(absl::StrCat(kOne, R"(
      %i = iota() {axis = 2, dtype = i64, shape = dims(B, 1, S, 1)} : i64[B, 1, S, 1]
      %j = iota() {axis = 3, dtype = i64, shape = dims(B, 1, 1, S)} : i64[B, 1, 1, S]
      %sees = le(%j, %i) : bool[B, 1, S, S]
      %zero = constant() {dtype = f32, value = 0.0} : f32[]
      %inf = constant() {dtype = f32, value = -inf} : f32[]
      %mask = where(%sees, %zero, %inf) : f32[B, 1, S, S]
      %kt = transpose(%q1) {perm = [0, 1, 3, 2]} : f32[1, 4, 8, S]
      %scores = matmul(%q1, %kt) : f32[1, 4, S, S]
      %masked = add(%scores, %mask) : f32[B, 4, S, S]
      %w = softmax(%masked) {axis = 3} : f32[B, 4, S, S]
      %y = matmul(%w, %q1) : f32[B, 4, S, 8]
      output "y" %y
    })"),
                                              "its result is broadcast"));
}

TEST(FuseAttentionPassTest, LeavesRepeatedHeadsThatBecomeSequences) {
  EXPECT_TRUE(CheckPasses(MakePassList<FuseAttentionPass, DcePass>(), R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 64]
      input %q "q" : f32[2*B, 2, S, 8]
      input %k5 "k5" : f32[B, 2, 1, S, 8]
      %ke = expand(%k5) {shape = dims(B, 2, 2, S, 8)} : f32[B, 2, 2, S, 8]
      %kr = reshape(%ke) {shape = dims(2*B, 2, S, 8)} : f32[2*B, 2, S, 8]
      %kt = transpose(%kr) {perm = [0, 1, 3, 2]} : f32[2*B, 2, 8, S]
      %scores = matmul(%q, %kt) : f32[2*B, 2, S, S]
      %w = softmax(%scores) {axis = 3} : f32[2*B, 2, S, S]
      %y = matmul(%w, %kr) : f32[2*B, 2, S, 8]
      output "y" %y
      // CHECK: %3 = reshape(%2) {shape = dims(2*B, 2, S, 8)}
      // CHECK-NEXT: %4 = attention(%0, %3, %3)
    })ir"));
}

TEST(FuseAttentionPassTest, RefusesOtherTypesThanItsQueries) {
  constexpr std::string_view kWide = R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 64]
      input %q "q" : bf16[B, 4, S, 8]
      input %v "v" : f32[B, 4, S, 8]
      input %bias "bias" : f32[1, 4, S, S]
      %kt = transpose(%q) {perm = [0, 1, 3, 2]} : bf16[B, 4, 8, S]
      %scores = matmul(%q, %kt) : bf16[B, 4, S, S]
      %wide = cast(%scores) {dtype = f32} : f32[B, 4, S, S]
      )ir";
  EXPECT_TRUE(CheckRefused<FuseAttentionPass>(absl::StrCat(kWide, R"(
      %w = softmax(%wide) {axis = 3} : f32[B, 4, S, S]
      %y = matmul(%w, %v) : f32[B, 4, S, 8]
      output "y" %y
    })"),
                                              "its queries have another dtype than its result"));
  const std::string masked = absl::StrCat(kWide, R"(
      %masked = add(%wide, %bias) : f32[B, 4, S, S]
      %w = softmax(%masked) {axis = 3} : f32[B, 4, S, S]
      %narrow = cast(%w) {dtype = bf16} : bf16[B, 4, S, S]
      %y = matmul(%narrow, %q) : bf16[B, 4, S, 8]
      output "y" %y
      output "v" %v
    })");
  EXPECT_TRUE(CheckRefused<FuseAttentionPass>(masked, "it is no condition on places alone"));
  EXPECT_FALSE(CheckRefused<FuseAttentionPass>(masked, "its mask stays an operand"));
}

// Heads that queries and keys merged differently are taken for sequences of one head.
TEST(FuseAttentionPassTest, TakesHeadsApartAsAllHadThem) {
  EXPECT_TRUE(CheckPasses(MakePassList<FuseAttentionPass, DcePass>(), R"ir(ffir 1
    graph @g {
      symbol B [1, 8]
      symbol S [1, 64]
      input %q4 "q4" : f32[B, 4, S, 8]
      input %k4 "k4" : f32[2*B, 2, S, 8]
      %q = reshape(%q4) {shape = dims(4*B, S, 8)} : f32[4*B, S, 8]
      %k = reshape(%k4) {shape = dims(4*B, S, 8)} : f32[4*B, S, 8]
      %kt = transpose(%k) {perm = [0, 2, 1]} : f32[4*B, 8, S]
      %scores = matmul(%q, %kt) : f32[4*B, S, S]
      %w = softmax(%scores) {axis = 2} : f32[4*B, S, S]
      %y = matmul(%w, %k) : f32[4*B, S, 8]
      output "y" %y
      // CHECK: attention({{.*}}) {causal = false, scale = 1.0} : f32[4*B, 1, S, 8]
    })ir"));
}

TEST(FuseAttentionPassTest, TakesOneMaskForMergedHeads) {
  EXPECT_TRUE(CheckPasses(MakePassList<FuseAttentionPass, DcePass>(), R"ir(ffir 1
    graph @g {
      symbol S [1, 64]
      symbol N [1, 64]
      input %n "n" : f32[N, S, 8]
      input %bias "bias" : f32[1, S, S]
      %kt = transpose(%n) {perm = [0, 2, 1]} : f32[N, 8, S]
      %scores = matmul(%n, %kt) : f32[N, S, S]
      %masked = add(%scores, %bias) : f32[N, S, S]
      %w = softmax(%masked) {axis = 2} : f32[N, S, S]
      %y = matmul(%w, %n) : f32[N, S, 8]
      output "y" %y
      // CHECK: %5 = reshape(%1) {shape = dims(1, 1, S, S)} : f32[1, 1, S, S]
      // CHECK-NEXT: %6 = attention(%2, %3, %4, %5)
    })ir"));
}

}  // namespace
}  // namespace flashflow::passes
