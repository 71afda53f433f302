// For tests of passes: the IR under test with the expected IR beside it, as CHECK lines in its comments.
//
//   EXPECT_TRUE(CheckPass<DcePass>(R"ir(ffir 1
//     graph @g {
//       input %x "x" : f32[2]
//       %a = neg(%x) : f32[2]
//       output "y" %x
//       // CHECK: input %0 "x"
//       // CHECK-NOT: neg
//     })"));
//
// CHECK matches in some later line, CHECK-NEXT in the very next one, CHECK-NOT in none up to the next match (or the
// end). Patterns are literal text, found anywhere in a line; {{...}} in them is a regular expression.
#ifndef COMPILER_PASSES_IR_CHECK_H_
#define COMPILER_PASSES_IR_CHECK_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compiler/passes/options.h"
#include "compiler/passes/pass.h"
#include "compiler/passes/pass_manager.h"
#include "gtest/gtest.h"

namespace flashflow::passes {

using Passes = std::vector<std::unique_ptr<Pass>>;

template <typename... T>
Passes MakePassList() {
  Passes passes;
  (passes.push_back(std::make_unique<T>()), ...);
  return passes;
}

// Matches `output` against the CHECK lines in `expectations`; fails without any.
::testing::AssertionResult MatchChecks(std::string_view output, std::string_view expectations);

struct PassRun {
  std::string before;  // printed before the passes
  std::string after;   // and after them
  std::vector<PassRecord> records;
  std::string error;  // of parsing or of a pass; empty if there was none
};
PassRun RunPasses(Passes passes, std::string_view text, const CompileOptions& options = {});

// Runs the passes over the graph in `text` and matches the result against the CHECK lines in it. Fails also if a pass
// says that it changed the graph and did not, or the other way round.
::testing::AssertionResult CheckPasses(Passes passes, std::string_view text, const CompileOptions& options = {});

template <typename T>
::testing::AssertionResult CheckPass(std::string_view text, const CompileOptions& options = {}) {
  return CheckPasses(MakePassList<T>(), text, options);
}

// Runs passes that must leave the graph unchanged, with remarks or without.
::testing::AssertionResult CheckUnchanged(Passes passes, std::string_view text, const CompileOptions& options = {});

template <typename T>
::testing::AssertionResult CheckKept(std::string_view text, const CompileOptions& options = {}) {
  return CheckUnchanged(MakePassList<T>(), text, options);
}

// Runs one pass that must leave the graph unchanged and remark on the reason, which has to contain `reason`.
::testing::AssertionResult CheckRefusal(Passes passes, std::string_view text, std::string_view reason,
                                        const CompileOptions& options = {});

template <typename T>
::testing::AssertionResult CheckRefused(std::string_view text, std::string_view reason,
                                        const CompileOptions& options = {}) {
  return CheckRefusal(MakePassList<T>(), text, reason, options);
}

}  // namespace flashflow::passes

#endif  // COMPILER_PASSES_IR_CHECK_H_
