#include "compiler/passes/dce_pass.h"

#include "compiler/passes/ir_check.h"
#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

TEST(DcePassTest, RemovesWhatIsUnused) {
  EXPECT_TRUE(CheckPass<DcePass>(R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2]
      input %unused "unused" : f32[2]
      weight %w "w" : f32[2]
      weight %v "v" : f32[2]
      %a = neg(%x) : f32[2]
      %b = add(%a, %w) : f32[2]
      %c = mul(%x, %v) : f32[2]
      output "y" %c
      // CHECK: input %0 "x"
      // CHECK-NEXT: input %1 "unused"
      // CHECK-NEXT: weight %2 "v"
      // CHECK-NEXT: %3 = mul(%0, %2)
      // CHECK-NEXT: output "y" %3
    })ir"))
      << "a weight goes with its last user; inputs stay";
}

TEST(DcePassTest, KeepsTheCacheChainAndDropsUnusedReads) {
  EXPECT_TRUE(CheckPass<DcePass>(R"ir(ffir 1
    graph @g {
      symbol T [1, 8]
      symbol R [1, 4]
      symbol P [1, 4]
      input %cache "cache" : cache[1, 2, 8, f32]
      input %q "q" : f32[T, 2, 8]
      input %s "row_start" : i32[R + 1]
      input %l "kv_len" : i32[R]
      input %t "block_table" : i32[R, P]
      %c = kv_append(%cache, %q, %q, %s, %l, %t) {layer = 0} : cache[1, 2, 8, f32]
      %o = paged_attention(%c, %q, %s, %l, %t) {layer = 0, scale = 1.0} : f32[T, 2, 8]
      output "cache" %c
      // CHECK: kv_append
      // CHECK-NEXT: output "cache"
    })ir"));
}

TEST(DcePassTest, LeavesALiveGraphAlone) {
  const PassRun run = RunPasses(MakePassList<DcePass>(), R"ir(ffir 1
    graph @g {
      input %x "x" : f32[2]
      %a = neg(%x) : f32[2]
      output "y" %a
    })ir");
  ASSERT_EQ(run.error, "");
  EXPECT_FALSE(run.records[0].changed);
  EXPECT_EQ(run.before, run.after);
}

}  // namespace
}  // namespace flashflow::passes
