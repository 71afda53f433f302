#include "compiler/passes/fuse_cached_attention_pass.h"

#include <string>

#include "absl/strings/str_replace.h"
#include "compiler/passes/dce_pass.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

constexpr std::string_view kStep = R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol R [1, 4]
      symbol P [1, 4]
      input %qkv "qkv" : f32[T, 32]
      input %cos "cos" : f32[T, 1, 4]
      input %sin "sin" : f32[T, 1, 4]
      input %rs "row_start" : i32[R + 1]
      input %kl "kv_len" : i32[R]
      input %bt "block_table" : i32[R, P]
      input %c "cache" : cache[1, 2, 4, f32]
      %q0 = slice(%qkv) {axis = 1, start = dim(0), stop = dim(16)} : f32[T, 16]
      %k0 = slice(%qkv) {axis = 1, start = dim(16), stop = dim(24)} : f32[T, 8]
      %v0 = slice(%qkv) {axis = 1, start = dim(24), stop = dim(32)} : f32[T, 8]
      %q1 = reshape(%q0) {shape = dims(T, 4, 4)} : f32[T, 4, 4]
      %k1 = reshape(%k0) {shape = dims(T, 2, 4)} : f32[T, 2, 4]
      %v1 = reshape(%v0) {shape = dims(T, 2, 4)} : f32[T, 2, 4]
      %q2 = rope(%q1, %cos, %sin) : f32[T, 4, 4]
      %k2 = rope(%k1, %cos, %sin) : f32[T, 2, 4]
      %c1 = kv_append(%c, %k2, %v1, %rs, %kl, %bt) {layer = 0} : cache[1, 2, 4, f32]
      %y = paged_attention(%c1, %q2, %rs, %kl, %bt) {layer = 0, scale = 0.5, window = 3} : f32[T, 4, 4]
      output "y" %y
      output "cache" %c1
      // CHECK: %7 = reshape(%1) {shape = dims(T, 4)} : f32[T, 4]
      // CHECK-NEXT: %8 = reshape(%2) {shape = dims(T, 4)} : f32[T, 4]
      // CHECK-NEXT: %9, %10 = cached_attention(%6, %0, %3, %4, %5, %7, %8) {heads = 4, layer = 0, scale = 0.5, window = 3} : cache[1, 2, 4, f32], f32[T, 16]
      // CHECK-NEXT: %11 = reshape(%10) {shape = dims(T, 4, 4)} : f32[T, 4, 4]
      // CHECK-NEXT: output "y" %11
      // CHECK-NEXT: output "cache" %9
    })ir";

TEST(FuseCachedAttentionPassTest, JoinsRopeAppendAndAttention) {
  EXPECT_TRUE(CheckPasses(MakePassList<FuseCachedAttentionPass, DcePass>(), kStep));
}

TEST(FuseCachedAttentionPassTest, JoinsAppendAndAttentionWithoutRope) {
  EXPECT_TRUE(
      CheckPasses(MakePassList<FuseCachedAttentionPass, DcePass>(),
                  absl::StrReplaceAll(kStep, {{"%k2, %v1", "%k1, %v1"},
                                              {"%c1, %q2", "%c1, %q1"},
                                              {"// CHECK: %7 = reshape(%1) {shape = dims(T, 4)} : f32[T, 4]", ""},
                                              {"// CHECK-NEXT: %8 = reshape(%2) {shape = dims(T, 4)} : f32[T, 4]", ""},
                                              {"// CHECK-NEXT: %9, %10 =", "// CHECK: %7, %8 ="},
                                              {", %5, %7, %8)", ", %5)"},
                                              {"%11 = reshape(%10)", "%9 = reshape(%8)"},
                                              {"output \"y\" %11", "output \"y\" %9"},
                                              {"output \"cache\" %9", "output \"cache\" %7"}})));
}

TEST(FuseCachedAttentionPassTest, RefusesWhatDoesNotLieSideBySide) {
  for (const auto& [from, to] : {std::pair("start = dim(16), stop = dim(24)", "start = dim(24), stop = dim(32)"),
                                 std::pair("start = dim(0), stop = dim(16)", "start = dim(16), stop = dim(32)"),
                                 std::pair("input %qkv \"qkv\" : f32[T, 32]", "input %qkv \"qkv\" : f32[T, 40]")}) {
    EXPECT_TRUE(CheckRefused<FuseCachedAttentionPass>(absl::StrReplaceAll(kStep, {{from, to}}),
                                                      "queries, keys and values are not side by side"));
  }
}

TEST(FuseCachedAttentionPassTest, RefusesOtherAnglesForKeys) {
  EXPECT_TRUE(CheckRefused<FuseCachedAttentionPass>(
      absl::StrReplaceAll(kStep, {{"rope(%k1, %cos, %sin)", "rope(%k1, %sin, %sin)"}}),
      "queries and keys turn by different angles"));
  EXPECT_TRUE(
      CheckRefused<FuseCachedAttentionPass>(absl::StrReplaceAll(kStep, {{"kv_append(%c, %k2", "kv_append(%c, %k1"}}),
                                            "queries and keys turn by different angles"));
}

TEST(FuseCachedAttentionPassTest, RefusesASecondReaderOfTheCache) {
  EXPECT_TRUE(CheckRefused<FuseCachedAttentionPass>(
      absl::StrReplaceAll(kStep,
                          {{"output \"y\" %y",
                            "%z = paged_attention(%c1, %q1, %rs, %kl, %bt) {layer = 0, scale = 0.5} : f32[T, 4, 4]\n"
                            "      output \"z\" %z\n      output \"y\" %y"}}),
      "the cache it reads has other readers"));
}

TEST(FuseCachedAttentionPassTest, RefusesTurnedValuesAndOneAngleForAllTokens) {
  EXPECT_TRUE(CheckRefused<FuseCachedAttentionPass>(
      absl::StrReplaceAll(kStep, {{"%c1 = kv_append(%c, %k2, %v1",
                                   "%v2 = rope(%v1, %cos, %sin) : f32[T, 2, 4]\n      %c1 = kv_append(%c, %k2, %v2"}}),
      "queries and keys turn by different angles"));
  EXPECT_TRUE(CheckRefused<FuseCachedAttentionPass>(absl::StrReplaceAll(kStep, {{"f32[T, 1, 4]", "f32[1, 1, 4]"}}),
                                                    "the angles are not one row a token"));
}

TEST(FuseCachedAttentionPassTest, RefusesOtherLayersAndOtherRows) {
  EXPECT_TRUE(CheckRefused<FuseCachedAttentionPass>(
      absl::StrReplaceAll(kStep, {{"cache[1,", "cache[2,"}, {"{layer = 0, scale", "{layer = 1, scale"}}),
      "no kv_append of its layer comes right before it"));
  EXPECT_TRUE(CheckRefused<FuseCachedAttentionPass>(
      absl::StrReplaceAll(
          kStep, {{"input %c ", "input %other \"other\" : i32[R, P]\n      input %c "},
                  {"paged_attention(%c1, %q2, %rs, %kl, %bt)", "paged_attention(%c1, %q2, %rs, %kl, %other)"}}),
      "its rows are not those of the kv_append"));
}

// Values that are the keys; every second column; rows where columns are expected.
TEST(FuseCachedAttentionPassTest, RefusesSlicesThatOnlyLookSideBySide) {
  const std::string values =
      absl::StrReplaceAll(kStep, {{"start = dim(24), stop = dim(32)", "start = dim(16), stop = dim(24)"}});
  const std::string stepped =
      absl::StrReplaceAll(kStep, {{"f32[T, 32]", "f32[T, 24]"},
                                  {"stop = dim(16)} : f32[T, 16]", "stop = dim(16), step = 2} : f32[T, 8]"},
                                  {"start = dim(16), stop = dim(24)", "start = dim(8), stop = dim(16)"},
                                  {"start = dim(24), stop = dim(32)", "start = dim(16), stop = dim(24)"},
                                  {"T, 4, 4", "T, 2, 4"}});
  const std::string rows = absl::StrReplaceAll(kStep, {{"symbol T [1, 8]", ""},
                                                       {"{axis = 1,", "{axis = 0,"},
                                                       {"f32[T, 16]", "f32[16, 32]"},
                                                       {"f32[T, 8]", "f32[8, 32]"},
                                                       {"[T, ", "[32, "},
                                                       {"(T, ", "(32, "}});
  for (const std::string& text : {values, stepped, rows}) {
    EXPECT_TRUE(CheckRefused<FuseCachedAttentionPass>(text, "queries, keys and values are not side by side"));
  }
}

}  // namespace
}  // namespace flashflow::passes
