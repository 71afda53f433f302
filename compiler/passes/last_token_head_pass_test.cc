#include "compiler/passes/last_token_head_pass.h"

#include "absl/strings/str_cat.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

TEST(LastTokenHeadPassTest, SinksThroughTheHeadAndTheLastBlock) {
  EXPECT_TRUE(CheckPass<LastTokenHeadPass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol L [0, 4]
      input %x "x" : f32[T, 2, 8]
      input %r "residual" : f32[T, 16]
      input %rows "logit_rows" : i32[L]
      weight %w "w" : f32[16, 16]
      weight %n "n" : f32[16]
      weight %h "h" : f32[32, 16]
      %0 = reshape(%x) {shape = dims(T, 16)} : f32[T, 16]
      %1 = linear(%0, %w) : f32[T, 16]
      %2 = add(%r, %1) : f32[T, 16]
      %3 = rms_norm(%2, %n) {eps = 1e-05} : f32[T, 16]
      %4 = silu(%3) : f32[T, 16]
      %5 = mul(%4, %n) : f32[T, 16]
      %6 = add(%2, %5) : f32[T, 16]
      %7 = linear(%6, %h) : f32[T, 32]
      %8 = gather_rows(%7, %rows) : f32[L, 32]
      output "logits" %8
      // CHECK: %6 = gather_rows(%0, %2) : f32[L, 2, 8]
      // CHECK-NEXT: %7 = reshape(%6) {shape = dims(L, 16)} : f32[L, 16]
      // CHECK-NEXT: %8 = linear(%7, %3) : f32[L, 16]
      // CHECK-NEXT: %9 = gather_rows(%1, %2) : f32[L, 16]
      // CHECK-NEXT: %10 = add(%9, %8) : f32[L, 16]
      // CHECK-NEXT: %11 = rms_norm(%10, %4) {eps = 1e-05} : f32[L, 16]
      // CHECK-NEXT: %12 = silu(%11) : f32[L, 16]
      // CHECK-NEXT: %13 = mul(%12, %4) : f32[L, 16]
      // CHECK-NEXT: %14 = add(%10, %13) : f32[L, 16]
      // CHECK-NEXT: %15 = linear(%14, %5) : f32[L, 32]
      // CHECK-NEXT: output "logits" %15
    })ir"));
}

TEST(LastTokenHeadPassTest, StopsWhereAllRowsAreWanted) {
  EXPECT_TRUE(CheckPass<LastTokenHeadPass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol L [0, 4]
      input %x "x" : f32[T, 16]
      input %rows "logit_rows" : i32[L]
      weight %h "h" : f32[32, 16]
      %0 = silu(%x) : f32[T, 16]
      %1 = tanh(%0) : f32[T, 16]
      %2 = linear(%1, %h) : f32[T, 32]
      %3 = gather_rows(%2, %rows) : f32[L, 32]
      output "logits" %3
      output "hidden" %0
      // CHECK: %3 = silu(%0) : f32[T, 16]
      // CHECK-NEXT: %4 = gather_rows(%3, %1) : f32[L, 16]
      // CHECK-NEXT: %5 = tanh(%4) : f32[L, 16]
      // CHECK-NEXT: %6 = linear(%5, %2) : f32[L, 32]
      // CHECK-NEXT: output "logits" %6
      // CHECK-NEXT: output "hidden" %3
    })ir"));
}

TEST(LastTokenHeadPassTest, StopsAtAttention) {
  EXPECT_TRUE(CheckPass<LastTokenHeadPass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol R [1, 4]
      symbol P [1, 4]
      symbol L [0, 4]
      input %q "q" : f32[T, 2, 8]
      input %s "row_start" : i32[R + 1]
      input %l "kv_len" : i32[R]
      input %t "block_table" : i32[R, P]
      input %rows "logit_rows" : i32[L]
      input %cache "cache" : cache[1, 2, 8, f32]
      %c = kv_append(%cache, %q, %q, %s, %l, %t) {layer = 0} : cache[1, 2, 8, f32]
      %o = paged_attention(%c, %q, %s, %l, %t) {layer = 0, scale = 1.0} : f32[T, 2, 8]
      %y = reshape(%o) {shape = dims(T, 16)} : f32[T, 16]
      %z = gather_rows(%y, %rows) : f32[L, 16]
      output "logits" %z
      output "cache" %c
      // CHECK: %7 = paged_attention
      // CHECK-NEXT: %8 = gather_rows(%7, %4) : f32[L, 2, 8]
      // CHECK-NEXT: %9 = reshape(%8) {shape = dims(L, 16)} : f32[L, 16]
      // CHECK-NEXT: output "logits" %9
    })ir"));
}

// Each body makes %y from %x : f32[T, 4, 6] in a way that does not keep rows apart.
TEST(LastTokenHeadPassTest, RefusesWhatMixesRows) {
  for (std::string_view body : {
           "%y = softmax(%x) {axis = 0} : f32[T, 4, 6]",
           "%a = transpose(%x) {perm = [1, 0, 2]} : f32[4, T, 6]\n%y = reshape(%a) {shape = dims(T, 4, 6)} : f32[T, 4, "
           "6]",
           "%a = reduce_sum(%x) {axes = [0]} : f32[4, 6]\n%y = expand(%a) {shape = dims(T, 4, 6)} : f32[T, 4, 6]",
           "%a = slice(%x) {axis = 0, start = dim(0), stop = dim(1)} : f32[1, 4, 6]\n"
           "%c = concat(%a, %x) {axis = 0} : f32[T + 1, 4, 6]\n"
           "%y = slice(%c) {axis = 0, start = dim(0), stop = dim(T)} : f32[T, 4, 6]",
       }) {
    EXPECT_TRUE(CheckRefused<LastTokenHeadPass>(absl::StrCat(R"ir(ffir 1
      graph @g {
        symbol T [1, 8]
        symbol L [0, 4]
        input %x "x" : f32[T, 4, 6]
        input %rows "logit_rows" : i32[L]
        )ir",
                                                             body, R"ir(
        %z = gather_rows(%y, %rows) : f32[L, 4, 6]
        output "z" %z
      })ir"),
                                                "not computed row by row"))
        << body;
  }
}

TEST(LastTokenHeadPassTest, RefusesAHeadWithOtherUses) {
  EXPECT_TRUE(CheckRefused<LastTokenHeadPass>(
      R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol L [0, 4]
      input %x "x" : f32[T, 16]
      input %rows "logit_rows" : i32[L]
      %0 = silu(%x) : f32[T, 16]
      %1 = gather_rows(%0, %rows) : f32[L, 16] loc "head (m.py:9)"
      output "a" %0
      output "b" %1
    })ir",
      "last-token-head refused at %3 = gather_rows at \"head (m.py:9)\": its other uses want all rows"));
}

// A product of [T, K] with [K, N] keeps rows apart; with T among what is summed it does not.
TEST(LastTokenHeadPassTest, TellsProductsApart) {
  EXPECT_TRUE(CheckPass<LastTokenHeadPass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol L [0, 4]
      input %x "x" : f32[T, 4]
      input %rows "logit_rows" : i32[L]
      weight %w "w" : f32[4, 6]
      %0 = matmul(%x, %w) : f32[T, 6]
      %1 = gather_rows(%0, %rows) : f32[L, 6]
      output "y" %1
      // CHECK: %3 = gather_rows(%0, %1) : f32[L, 4]
      // CHECK-NEXT: %4 = matmul(%3, %2) : f32[L, 6]
    })ir"));
  EXPECT_TRUE(CheckRefused<LastTokenHeadPass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol L [0, 4]
      input %x "x" : f32[T, T]
      input %v "v" : f32[T, 6]
      input %rows "logit_rows" : i32[L]
      %0 = matmul(%x, %v) : f32[T, 6]
      %1 = gather_rows(%0, %rows) : f32[L, 6]
      output "y" %1
    })ir",
                                              "not computed row by row"));
}

}  // namespace
}  // namespace flashflow::passes
