#include "compiler/passes/kv_cache_pass.h"

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

TEST(KvCachePassTest, RewritesAnAttentionBlock) {
  EXPECT_TRUE(CheckPass<KvCachePass>(R"ir(ffir 1
    graph @block {
      symbol B [1, 4]
      symbol S [1, 64]
      metadata context_length = 60
      input %ids "input_ids" : i64[B, S]
      input %pos "position_ids" : i64[B, S]
      weight %wte "wte" : f32[32, 32]
      weight %cos "cos" : f32[64, 8]
      weight %wk "wk" : f32[16, 32]
      %x = embedding(%wte, %ids) {dtype = f32} : f32[B, S, 32]
      %c = embedding(%cos, %pos) {dtype = f32} : f32[B, S, 8]
      %c1 = reshape(%c) {shape = dims(B, 1, S, 8)} : f32[B, 1, S, 8]
      %q = reshape(%x) {shape = dims(B, S, 4, 8)} : f32[B, S, 4, 8]
      %qt = transpose(%q) {perm = [0, 2, 1, 3]} : f32[B, 4, S, 8]
      %qr = mul(%qt, %c1) : f32[B, 4, S, 8]
      %k = linear(%x, %wk) : f32[B, S, 16] loc "k (m.py:7)"
      %kh = reshape(%k) {shape = dims(B, S, 2, 8)} : f32[B, S, 2, 8]
      %kt = transpose(%kh) {perm = [0, 2, 1, 3]} : f32[B, 2, S, 8]
      %a = attention(%qr, %kt, %kt) {causal = true, scale = 0.5, window = 9} : f32[B, 4, S, 8]
      %at = transpose(%a) {perm = [0, 2, 1, 3]} : f32[B, S, 4, 8]
      %y = reshape(%at) {shape = dims(B, S, 32)} : f32[B, S, 32]
      %z = linear(%y, %wte) : f32[B, S, 32]
      output "y" %z
      // CHECK: graph @block
      // CHECK-NEXT: symbol T [1, 128]
      // CHECK-NEXT: symbol R [1, 8]
      // CHECK-NEXT: symbol P [1, 4]
      // CHECK-NEXT: symbol L [0, 16]
      // CHECK-NEXT: metadata context_length = 60
      // CHECK-NEXT: input %0 "token_ids" : i32[T]
      // CHECK-NEXT: input %1 "positions" : i32[T]
      // CHECK-NEXT: input %2 "row_start" : i32[R + 1]
      // CHECK-NEXT: input %3 "kv_len" : i32[R]
      // CHECK-NEXT: input %4 "block_table" : i32[R, P]
      // CHECK-NEXT: input %5 "logit_rows" : i32[L]
      // CHECK-NEXT: input %6 "cache" : cache[1, 2, 8, f32]
      // CHECK: weight %9 "wk"
      // CHECK-NEXT: %10 = embedding(%7, %0) {dtype = f32} : f32[T, 32]
      // CHECK-NEXT: %11 = embedding(%8, %1) {dtype = f32} : f32[T, 8]
      // CHECK-NEXT: %12 = reshape(%11) {shape = dims(T, 1, 8)} : f32[T, 1, 8]
      // CHECK-NEXT: %13 = reshape(%10) {shape = dims(T, 4, 8)} : f32[T, 4, 8]
      // CHECK-NEXT: %14 = mul(%13, %12) : f32[T, 4, 8]
      // CHECK-NEXT: %15 = linear(%10, %9) : f32[T, 16] loc "k (m.py:7)"
      // CHECK-NEXT: %16 = reshape(%15) {shape = dims(T, 2, 8)} : f32[T, 2, 8]
      // CHECK-NEXT: %17 = kv_append(%6, %16, %16, %2, %3, %4) {layer = 0} : cache[1, 2, 8, f32]
      // CHECK-NEXT: %18 = paged_attention(%17, %14, %2, %3, %4) {layer = 0, scale = 0.5, window = 9} : f32[T, 4, 8]
      // CHECK-NEXT: %19 = reshape(%18) {shape = dims(T, 32)} : f32[T, 32]
      // CHECK-NEXT: %20 = linear(%19, %7) : f32[T, 32]
      // CHECK-NEXT: %21 = gather_rows(%20, %5) : f32[L, 32]
      // CHECK-NEXT: output "logits" %21
      // CHECK-NEXT: output "cache" %17
    })ir",
                                     {.max_tokens = 128, .max_rows = 8, .max_logit_rows = 16}));
}

// A graph whose logits are %y, after `body` made it from x : f32[B, S, 16] (embedded ids), att : f32[B, S, 16] (after
// one causal attention), w : f32[16, 16], v : f32[16], ids and pos : i64[B, S], q : f32[B, 2, S, 8].
std::string WithBody(std::string_view body) {
  return absl::StrCat(R"ir(ffir 1
    graph @g {
      symbol B [1, 4]
      symbol S [1, 64]
      metadata context_length = 64
      input %ids "input_ids" : i64[B, S]
      input %pos "position_ids" : i64[B, S]
      weight %wte "wte" : f32[32, 16]
      weight %w "w" : f32[16, 16]
      weight %v "v" : f32[16]
      weight %u "u" : f32[2, 1, 8]
      %x = embedding(%wte, %ids) {dtype = f32} : f32[B, S, 16]
      %h = reshape(%x) {shape = dims(B, S, 2, 8)} : f32[B, S, 2, 8]
      %q = transpose(%h) {perm = [0, 2, 1, 3]} : f32[B, 2, S, 8]
      %o = attention(%q, %q, %q) {causal = true, scale = 1.0} : f32[B, 2, S, 8]
      %ot = transpose(%o) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]
      %att = reshape(%ot) {shape = dims(B, S, 16)} : f32[B, S, 16]
      )ir",
                      body, "\noutput \"logits\" %y\n}\n");
}

TEST(KvCachePassTest, RepacksEachKindOfOperation) {
  struct Case {
    std::string_view body, checks;
  };
  // %0 token_ids, %1 positions, %5 logit_rows, %7 wte, %8 w, %9 v, %10 u, %11 x, %12 h, %13 append, %14 o, %15 att.
  const Case cases[] = {
      {"%y = add(%att, %v) : f32[B, S, 16]", "// CHECK: %16 = add(%15, %9) : f32[T, 16]"},
      // A weight that broadcasts over the tokens loses the axes of size 1 that stood for them.
      {"%a = add(%o, %u) : f32[B, 2, S, 8]\n%t = transpose(%a) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]\n"
       "%y = reshape(%t) {shape = dims(B, S, 16)} : f32[B, S, 16]",
       "// CHECK: %16 = reshape(%10) {shape = dims(2, 8)} : f32[2, 8]\n// CHECK-NEXT: %17 = add(%14, %16) : f32[T, 2, "
       "8]\n"
       "// CHECK-NEXT: %18 = reshape(%17) {shape = dims(T, 16)}"},
      // Through [B*S, C] and back, as addmm is exported.
      {"%f = reshape(%att) {shape = dims(B*S, 16)} : f32[B*S, 16]\n%l = linear(%f, %w) : f32[B*S, 16]\n"
       "%y = reshape(%l) {shape = dims(B, S, 16)} : f32[B, S, 16]",
       "// CHECK: %16 = linear(%15, %8) : f32[T, 16]\n// CHECK-NEXT: gather_rows(%16, %5)"},
      {"%m = matmul(%att, %w) : f32[B, S, 16]\n%y = tanh(%m) : f32[B, S, 16]",
       "// CHECK: %16 = matmul(%15, %8) : f32[T, 16]\n// CHECK-NEXT: %17 = tanh(%16) : f32[T, 16]"},
      // A transpose of other axes stays, without the token axes.
      {"%t = transpose(%ot) {perm = [0, 1, 3, 2]} : f32[B, S, 8, 2]\n"
       "%y = reshape(%t) {shape = dims(B, S, 16)} : f32[B, S, 16]",
       "// CHECK: %16 = transpose(%14) {perm = [0, 2, 1]} : f32[T, 8, 2]"},
      {"%s = slice(%o) {axis = 3, start = dim(4), stop = dim(8)} : f32[B, 2, S, 4]\n"
       "%c = concat(%s, %s) {axis = 3} : f32[B, 2, S, 8]\n%t = transpose(%c) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]\n"
       "%y = reshape(%t) {shape = dims(B, S, 16)} : f32[B, S, 16]",
       "// CHECK: %16 = slice(%14) {axis = 2, start = dim(4), stop = dim(8)} : f32[T, 2, 4]\n"
       "// CHECK-NEXT: %17 = concat(%16, %16) {axis = 2} : f32[T, 2, 8]"},
      {"%r = reduce_mean(%o) {axes = [1]} : f32[B, S, 8]\n%e = reshape(%r) {shape = dims(B, S, 1, 8)} : f32[B, S, 1, "
       "8]\n"
       "%f = expand(%e) {shape = dims(B, S, 2, 8)} : f32[B, S, 2, 8]\n"
       "%y = reshape(%f) {shape = dims(B, S, 16)} : f32[B, S, 16]",
       "// CHECK: %16 = reduce_mean(%14) {axes = [1]} : f32[T, 8]\n"
       "// CHECK-NEXT: %17 = reshape(%16) {shape = dims(T, 1, 8)} : f32[T, 1, 8]\n"
       "// CHECK-NEXT: %18 = expand(%17) {shape = dims(T, 2, 8)} : f32[T, 2, 8]"},
      {"%r = reduce_max(%att) {axes = [2], keepdims = true} : f32[B, S, 1]\n%y = sub(%att, %r) : f32[B, S, 16]",
       "// CHECK: %16 = reduce_max(%15) {axes = [1], keepdims = true} : f32[T, 1]\n// CHECK-NEXT: sub(%15, %16)"},
      // Heads in front of the tokens, or an axis that only a weight has.
      {"%t = transpose(%o) {perm = [1, 0, 2, 3]} : f32[2, B, S, 8]\n%s = softmax(%t) {axis = 0} : f32[2, B, S, 8]\n"
       "%u2 = transpose(%s) {perm = [1, 2, 0, 3]} : f32[B, S, 2, 8]\n"
       "%y = reshape(%u2) {shape = dims(B, S, 16)} : f32[B, S, 16]",
       "// CHECK: %16 = softmax(%14) {axis = 1} : f32[T, 2, 8]\n// CHECK-NEXT: %17 = reshape(%16)"},
      {"%c = constant() {dtype = f32, shape = dims(2, 1, 1, 16), value = 3.0} : f32[2, 1, 1, 16]\n"
       "%a = mul(%att, %c) : f32[2, B, S, 16]\n%y = reduce_sum(%a) {axes = [0]} : f32[B, S, 16]",
       "// CHECK: %17 = reshape(%15) {shape = dims(T, 1, 16)} : f32[T, 1, 16]\n"
       "// CHECK-NEXT: %18 = reshape(%16) {shape = dims(2, 16)} : f32[2, 16]\n"
       "// CHECK-NEXT: %19 = mul(%17, %18) : f32[T, 2, 16]\n// CHECK-NEXT: %20 = reduce_sum(%19) {axes = [1]} : f32[T, "
       "16]"},
      {"%y = softmax(%att) {axis = 2} : f32[B, S, 16]", "// CHECK: %16 = softmax(%15) {axis = 1} : f32[T, 16]"},
      {"%y = layer_norm(%att, _, %v) {eps = 1e-05} : f32[B, S, 16]", "// CHECK: %16 = layer_norm(%15, _, %9)"},
      // Index arithmetic narrows to i32 beside tokens.
      {"%two = constant() {dtype = i64, value = 2.0} : i64[]\n%p = add(%pos, %two) : i64[B, S]\n"
       "%e = embedding(%wte, %p) {dtype = f32} : f32[B, S, 16]\n%y = add(%att, %e) : f32[B, S, 16]",
       "// CHECK: %17 = constant() {dtype = i32, value = 2.0} : i32[]\n// CHECK-NEXT: %18 = add(%1, %17) : i32[T]\n"
       "// CHECK-NEXT: %19 = embedding(%7, %18)"},
      // An operand of lower rank gets axes of size 1 behind the tokens, not before them.
      {"%r = reduce_mean(%att) {axes = [2]} : f32[B, S]\n%c = cast(%pos) {dtype = f32} : f32[B, S]\n"
       "%d = add(%r, %c) : f32[B, S]\n%e = reshape(%d) {shape = dims(B, S, 1)} : f32[B, S, 1]\n"
       "%y = mul(%att, %e) : f32[B, S, 16]",
       "// CHECK: %17 = cast(%1) {dtype = f32} : f32[T]\n// CHECK-NEXT: %18 = add(%16, %17) : f32[T]\n"
       "// CHECK-NEXT: %19 = reshape(%18) {shape = dims(T, 1)} : f32[T, 1]"},
      {"%y = cast(%att) {dtype = bf16} : bf16[B, S, 16]",
       "// CHECK: %17 = cast(%16) {dtype = f32} : f32[T, 16]\n// CHECK-NEXT: gather_rows(%17, %5) : f32[L, 16]"},
  };
  for (const Case& c : cases) {
    EXPECT_TRUE(CheckPass<KvCachePass>(absl::StrCat(WithBody(c.body), "\n", c.checks))) << c.body;
  }
}

TEST(KvCachePassTest, RefusesWhatMixesTokens) {
  struct Case {
    std::string_view body, reason;
  };
  const Case cases[] = {
      {"%a = attention(%q, %q, %q) {causal = false, scale = 1.0} : f32[B, 2, S, 8] loc \"enc (m.py:3)\"\n"
       "%t = transpose(%a) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]\n%y = reshape(%t) {shape = dims(B, S, 16)} : f32[B, "
       "S, 16]",
       "attention at \"enc (m.py:3)\": the attention is not causal"},
      {"%a = attention(%h, %h, %h) {causal = true, scale = 1.0} : f32[B, S, 2, 8]\n"
       "%y = reshape(%a) {shape = dims(B, S, 16)} : f32[B, S, 16]",
       "keys and values must be [batch, heads, sequence, head_dim] with a constant number of heads"},
      {"%qb = transpose(%q) {perm = [2, 1, 0, 3]} : f32[S, 2, B, 8]\n"
       "%a = attention(%qb, %qb, %qb) {causal = true, scale = 1.0} : f32[S, 2, B, 8]\n"
       "%t = transpose(%a) {perm = [2, 0, 1, 3]} : f32[B, S, 2, 8]\n%y = reshape(%t) {shape = dims(B, S, 16)} : f32[B, "
       "S, 16]",
       "operand 0 is not [batch, heads, sequence, head_dim]"},
      // Decomposed attention: at its softmax, or at its first product.
      {"%k = transpose(%x) {perm = [0, 2, 1]} : f32[B, 16, S]\n%s = matmul(%x, %k) : f32[B, S, S]\n"
       "%p = softmax(%s) {axis = 2} : f32[B, S, S]\n%y = matmul(%p, %x) : f32[B, S, 16]",
       "operand 1 is made from tokens; write attention as scaled_dot_product_attention"},
      {"%a = reshape(%x) {shape = dims(B, S, 1, 16)} : f32[B, S, 1, 16]\n"
       "%b = reshape(%x) {shape = dims(B, 1, S, 16)} : f32[B, 1, S, 16]\n%p = mul(%a, %b) : f32[B, S, S, 16]\n"
       "%y = reduce_sum(%p) {axes = [2]} : f32[B, S, 16]",
       "its operands have their batch and sequence on different axes"},
      {"%w3 = reshape(%w) {shape = dims(1, 16, 16)} : f32[1, 16, 16]\n%y = matmul(%x, %w3) : f32[B, S, 16]",
       "only a matrix is the same for all tokens"},
      {"%y = softmax(%x) {axis = 1} : f32[B, S, 16]", "softmax along the sequence axis mixes tokens"},
      {"%m = reduce_mean(%x) {axes = [1], keepdims = true} : f32[B, 1, 16]\n%y = add(%x, %m) : f32[B, S, 16]",
       "reduce_mean along the sequence axis mixes tokens"},
      {"%m = reduce_sum(%x) {axes = [0]} : f32[S, 16]\n%y = add(%x, %m) : f32[B, S, 16]",
       "reduce_sum along the batch axis mixes tokens"},
      {"%y = slice(%x) {axis = 1, start = dim(0), stop = dim(1)} : f32[B, 1, 16]",
       "slice along the sequence axis mixes tokens; export logits for every position"},
      {"%y = concat(%x, %x) {axis = 1} : f32[B, 2*S, 16]", "concat along the sequence axis mixes tokens"},
      {"%f = reshape(%x) {shape = dims(B, 16*S)} : f32[B, 16*S]\n%y = reshape(%f) {shape = dims(B, S, 16)} : f32[B, S, "
       "16]",
       "it folds the batch or sequence axis into others: [S, 16] to [16*S]"},
      // The same elements, but transposed ones: rows of one sequence end up in another.
      {"%t = transpose(%x) {perm = [1, 0, 2]} : f32[S, B, 16]\n%y = reshape(%t) {shape = dims(B, S, 16)} : f32[B, S, "
       "16]",
       "it folds the batch or sequence axis"},
      {"%t = transpose(%x) {perm = [1, 0, 2]} : f32[S, B, 16]\n%f = reshape(%t) {shape = dims(B*S, 16)} : f32[B*S, "
       "16]\n"
       "%y = reshape(%f) {shape = dims(B, S, 16)} : f32[B, S, 16]",
       "it folds the batch or sequence axis"},
      {"%i = iota() {dtype = f32, shape = dims(S, 16), axis = 0} : f32[S, 16]\n%y = add(%x, %i) : f32[B, S, 16]",
       "is made for all tokens at once from none of them; make it from position_ids, or from arange"},
      {"%i = iota() {dtype = i64, shape = dims(B, 1), axis = 0} : i64[B, 1]\n%p = add(%pos, %i) : i64[B, S]\n"
       "%e = embedding(%wte, %p) {dtype = f32} : f32[B, S, 16]\n%y = add(%x, %e) : f32[B, S, 16]",
       "is made for all tokens at once from none of them"},
      {"%i = iota() {dtype = f32, shape = dims(1, S), axis = 1} : f32[1, S]\n"
       "%j = reshape(%i) {shape = dims(S, 1)} : f32[S, 1]\n%p = add(%i, %j) : f32[S, S]\n"
       "%s = reduce_sum(%p) {axes = [0]} : f32[S]\n%t = reshape(%s) {shape = dims(S, 1)} : f32[S, 1]\n"
       "%y = add(%x, %t) : f32[B, S, 16]",
       "its operands have their batch and sequence on different axes"},
      {"%w16 = slice(%w) {axis = 0, start = dim(0), stop = dim(16)} : f32[16, 16]\n"
       "%i = iota() {dtype = f32, shape = dims(S), axis = 0} : f32[S]\n%c = cumsum(%i) {axis = 0} : f32[S]\n"
       "%t = reshape(%c) {shape = dims(S, 1)} : f32[S, 1]\n%y = add(%x, %t) : f32[B, S, 16]",
       "cumsum of tokens is not known to keep them apart"},
      {"%big = constant() {dtype = i64, value = 3000000000.0} : i64[]\n%p = add(%pos, %big) : i64[B, S]\n"
       "%e = embedding(%wte, %p) {dtype = f32} : f32[B, S, 16]\n%y = add(%x, %e) : f32[B, S, 16]",
       "the constant 3e+09 is too large for 32-bit index arithmetic"},
      {"%p = mul(%pos, %ids) : i64[B, S]\n%e = embedding(%wte, %p) {dtype = f32} : f32[B, S, 16]\n"
       "%y = add(%x, %e) : f32[B, S, 16]",
       "a product of 64-bit integers may not fit"},
      {"%y = transpose(%x) {perm = [0, 2, 1]} : f32[B, 16, S]", "the output must be float logits [batch, sequence"},
      {"%y = neg(%v) : f32[16]", "the output must be float logits [batch, sequence"},
      {"%k = slice(%q) {axis = 1, start = dim(0), stop = dim(1)} : f32[B, 1, S, 8]\n"
       "%a = attention(%q, %k, %k) {causal = true, scale = 1.0} : f32[B, 2, S, 8]\n"
       "%t = transpose(%a) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]\n%y = reshape(%t) {shape = dims(B, S, 16)} : f32[B, "
       "S, 16]",
       "it has 1 KV heads of 8, earlier attention has 2 of 8"},
  };
  for (const Case& c : cases) {
    EXPECT_TRUE(CheckRefused<KvCachePass>(WithBody(c.body), c.reason)) << c.body;
  }
}

// Positions of the model's own: a table's rows by iota, a table's first rows, and angles that all sequences share.
TEST(KvCachePassTest, TakesThePositionsThatTheModelCounts) {
  EXPECT_TRUE(CheckPass<KvCachePass>(R"ir(ffir 1
    graph @own {
      symbol B [1, 4]
      symbol S [1, 64]
      metadata context_length = 64
      input %ids "input_ids" : i64[B, S]
      weight %wte "wte" : f32[32, 16]
      weight %wpe "wpe" : f32[64, 16]
      weight %cos "cos" : f32[64, 8]
      %x = embedding(%wte, %ids) {dtype = f32} : f32[B, S, 16]
      %i = iota() {dtype = i64, shape = dims(S), axis = 0} : i64[S]
      %p = embedding(%wpe, %i) {dtype = f32} : f32[S, 16]
      %h = add(%x, %p) : f32[B, S, 16]
      %first = slice(%wpe) {axis = 0, start = dim(0), stop = dim(S)} : f32[S, 16]
      %twice = concat(%first, %first) {axis = 1} : f32[S, 32]
      %again = slice(%twice) {axis = 1, start = dim(16), stop = dim(32)} : f32[S, 16]
      %first3 = reshape(%again) {shape = dims(1, S, 16)} : f32[1, S, 16]
      %g = add(%first3, %h) : f32[B, S, 16]
      %i2 = reshape(%i) {shape = dims(1, S)} : i64[1, S]
      %one = constant() {dtype = i64, value = 1.0} : i64[]
      %next = sub(%i2, %one) : i64[1, S]
      %all = expand(%next) {shape = dims(B, S)} : i64[B, S]
      %c = embedding(%cos, %all) {dtype = f32} : f32[B, S, 8]
      %c1 = reshape(%c) {shape = dims(B, 1, S, 8)} : f32[B, 1, S, 8]
      %t = iota() {dtype = f32, shape = dims(1, 1, S, 1), axis = 2} : f32[1, 1, S, 1]
      %q = reshape(%g) {shape = dims(B, S, 2, 8)} : f32[B, S, 2, 8]
      %qt = transpose(%q) {perm = [0, 2, 1, 3]} : f32[B, 2, S, 8]
      %qc = mul(%qt, %c1) : f32[B, 2, S, 8]
      %qs = mul(%qc, %t) : f32[B, 2, S, 8]
      %a = attention(%qs, %qt, %qt) {causal = true, scale = 0.5} : f32[B, 2, S, 8]
      %at = transpose(%a) {perm = [0, 2, 1, 3]} : f32[B, S, 2, 8]
      %y = reshape(%at) {shape = dims(B, S, 16)} : f32[B, S, 16]
      output "y" %y
      // CHECK: input %0 "token_ids" : i32[T]
      // CHECK-NEXT: input %1 "positions" : i32[T]
      // CHECK: weight %7 "wte"
      // CHECK-NEXT: weight %8 "wpe"
      // CHECK-NEXT: weight %9 "cos"
      // CHECK-NEXT: %10 = embedding(%7, %0) {dtype = f32} : f32[T, 16]
      // CHECK-NEXT: %11 = embedding(%8, %1) {dtype = f32} : f32[T, 16]
      // CHECK-NEXT: %12 = add(%10, %11) : f32[T, 16]
      // CHECK-NEXT: %13 = embedding(%8, %1) {dtype = f32} : f32[T, 16]
      // CHECK-NEXT: %14 = concat(%13, %13) {axis = 1} : f32[T, 32]
      // CHECK-NEXT: %15 = slice(%14) {axis = 1, start = dim(16), stop = dim(32)} : f32[T, 16]
      // CHECK-NEXT: %16 = reshape(%15) {shape = dims(T, 1, 16)} : f32[T, 1, 16]
      // CHECK-NEXT: %17 = reshape(%16) {shape = dims(T, 16)} : f32[T, 16]
      // CHECK-NEXT: %18 = add(%17, %12) : f32[T, 16]
      // CHECK: sub(
      // CHECK: embedding(%9, {{%[0-9]+}}) {dtype = f32} : f32[T, 8]
      // CHECK: cast(%1) {dtype = f32} : f32[T]
      // CHECK-NEXT: {{%[0-9]+}} = reshape({{%[0-9]+}}) {shape = dims(T, 1, 1, 1)} : f32[T, 1, 1, 1]
      // CHECK: paged_attention
    })ir",
                                     {.page_size = 16, .max_tokens = 128, .max_rows = 8, .max_logit_rows = 16}));
}

TEST(KvCachePassTest, RefusesOtherInterfaces) {
  const std::string good = WithBody("%y = neg(%att) : f32[B, S, 16]");
  const auto with = [&good](std::string_view from, std::string_view to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  EXPECT_TRUE(
      CheckRefused<KvCachePass>(with("\"position_ids\"", "\"pos\""), "expected exactly the input \"input_ids\", or"));
  EXPECT_TRUE(CheckRefused<KvCachePass>(with("input %pos", "input %mask \"mask\" : f32[B, S]\ninput %pos"),
                                        "expected exactly the input \"input_ids\", or"));
  EXPECT_TRUE(CheckRefused<KvCachePass>(with("%pos \"position_ids\" : i64[B, S]", "%pos \"position_ids\" : i64[S]"),
                                        "must be an integer tensor [batch, sequence], got i64[S]"));
  EXPECT_TRUE(CheckRefused<KvCachePass>(with("metadata context_length = 64", ""), "context_length"));
  EXPECT_TRUE(CheckRefused<KvCachePass>(with("context_length = 64", "context_length = 0"), "context_length"));
  EXPECT_TRUE(CheckRefused<KvCachePass>(with("output \"logits\" %y", "output \"logits\" %y\noutput \"x\" %x"),
                                        "expected one output"));
  EXPECT_TRUE(CheckRefused<KvCachePass>(R"ir(ffir 1
    graph @g {
      symbol B [1, 4]
      symbol S [1, 64]
      metadata context_length = 64
      input %ids "input_ids" : i64[B, S]
      input %pos "position_ids" : i64[B, S]
      weight %wte "wte" : f32[32, 16]
      %x = embedding(%wte, %ids) {dtype = f32} : f32[B, S, 16]
      output "logits" %x
    })ir",
                                        "the graph has no attention"));
}

TEST(KvCachePassTest, LeavesAStepGraphAlone) {
  const PassRun run = RunPasses(MakePassList<KvCachePass, KvCachePass>(), WithBody("%y = neg(%att) : f32[B, S, 16]"));
  ASSERT_EQ(run.error, "");
  EXPECT_TRUE(run.records[0].changed);
  EXPECT_FALSE(run.records[1].changed);
  EXPECT_TRUE(run.records[1].remarks.empty());
}

}  // namespace
}  // namespace flashflow::passes
