#include "compiler/ir/attr.h"

#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace flashflow {
namespace {

TEST(Attr, PrintsEveryKind) {
  EXPECT_EQ(AttrToString(int64_t{-3}), "-3");
  EXPECT_EQ(AttrToString(1.0), "1.0");
  EXPECT_EQ(AttrToString(1e-5), "1e-05");
  EXPECT_EQ(AttrToString(0.1), "0.1");
  EXPECT_EQ(AttrToString(-std::numeric_limits<double>::infinity()), "-inf");
  EXPECT_EQ(AttrToString(std::nan("")), "nan");
  EXPECT_EQ(AttrToString(true), "true");
  EXPECT_EQ(AttrToString(std::string("a\"b\\\n\tü\x01")), "\"a\\\"b\\\\\\n\\tü\\001\"");
  EXPECT_EQ(AttrToString(std::vector<int64_t>{1, -2}), "[1, -2]");
  EXPECT_EQ(AttrToString(std::vector<int64_t>{}), "[]");
  EXPECT_EQ(AttrToString(DType::kBF16), "bf16");
  EXPECT_EQ(AttrToString(DimExpr::Symbol("B") * 2), "dim(2*B)");
  EXPECT_EQ(AttrToString(Dims{DimExpr::Symbol("B"), 64}), "dims(B, 64)");
  EXPECT_EQ(AttrToString(Dims{}), "dims()");
}

TEST(Attr, KindsFollowTheVariant) {
  EXPECT_EQ(KindOf(Attr(1)), AttrKind::kInt);
  EXPECT_EQ(KindOf(Attr(1.0)), AttrKind::kFloat);
  EXPECT_EQ(KindOf(Attr(false)), AttrKind::kBool);
  EXPECT_EQ(KindOf(Attr("x")), AttrKind::kString);
  EXPECT_EQ(KindOf(Attr(std::vector<int64_t>{1})), AttrKind::kInts);
  EXPECT_EQ(KindOf(Attr(DType::kI8)), AttrKind::kDType);
  EXPECT_EQ(KindOf(Attr(DimExpr(1))), AttrKind::kDim);
  EXPECT_EQ(KindOf(Attr(Dims{1})), AttrKind::kDims);
}

TEST(Attr, SameAttrComparesFloatsByBits) {
  EXPECT_TRUE(SameAttr(std::nan("1"), std::nan("2")));
  EXPECT_FALSE(SameAttr(0.0, -0.0));
  EXPECT_FALSE(SameAttr(1.0, int64_t{1}));
  EXPECT_TRUE(SameAttr(Dims{DimExpr::Symbol("B")}, Dims{DimExpr::Symbol("B")}));
  EXPECT_FALSE(SameAttrs({{"a", 1}}, {{"a", 1}, {"b", 1}}));
  EXPECT_FALSE(SameAttrs({{"a", 1}}, {{"b", 1}}));
}

TEST(Attr, GetAttrNamesWhatIsWrong) {
  const AttrMap attrs = {{"axis", 2}};
  EXPECT_EQ(*GetAttr<int64_t>(attrs, "axis"), 2);
  EXPECT_EQ(GetAttr<int64_t>(attrs, "step").status(), absl::NotFoundError("attribute step is missing"));
  EXPECT_EQ(GetAttr<double>(attrs, "axis").status(),
            absl::InvalidArgumentError("attribute axis: expected float, got int 2"));
}

}  // namespace
}  // namespace flashflow
