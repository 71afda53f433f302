#include "compiler/passes/unknown_name.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace flashflow::passes {
namespace {

std::string Message(std::string_view name) {
  const std::vector<std::string> known = {"dce", "fuse-mlp", "fuse-rope"};
  return std::string(UnknownName("pass", name, known).message());
}

TEST(UnknownNameTest, NamesTheNearestIfOneIsNear) {
  EXPECT_EQ(Message("fuze-mlp"),
            "no pass is named \"fuze-mlp\"; did you mean \"fuse-mlp\"? passes: dce, fuse-mlp, fuse-rope");
  EXPECT_EQ(Message("fuserope"),
            "no pass is named \"fuserope\"; did you mean \"fuse-rope\"? passes: dce, fuse-mlp, fuse-rope");
  EXPECT_EQ(Message("dc"), "no pass is named \"dc\"; did you mean \"dce\"? passes: dce, fuse-mlp, fuse-rope");
  EXPECT_EQ(Message("licm"), "no pass is named \"licm\"; passes: dce, fuse-mlp, fuse-rope");
  EXPECT_EQ(Message(""), "no pass is named \"\"; passes: dce, fuse-mlp, fuse-rope");
}

}  // namespace
}  // namespace flashflow::passes
