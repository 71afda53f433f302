#include "kernels/registry/launcher.h"

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace flashflow::kernels {
namespace {

class NamedKernel : public BoundKernel {
 public:
  explicit NamedKernel(absl::Status status) : status_(status) {}
  absl::Status Launch(const LaunchContext&) const override { return status_; }

 private:
  absl::Status status_;
};

BindFn Returning(absl::Status status) {
  return [status](const BindRequest&) -> absl::StatusOr<std::unique_ptr<BoundKernel>> {
    return std::make_unique<NamedKernel>(status);
  };
}

TEST(LaunchersTest, BindsTheRegisteredVersion) {
  Launchers launchers;
  EXPECT_FALSE(launchers.Has("cpu.a", 1));
  ASSERT_TRUE(launchers.Register("cpu.a", 1, Returning(absl::AbortedError("one"))).ok());
  ASSERT_TRUE(launchers.Register("cpu.a", 2, Returning(absl::AbortedError("two"))).ok());
  EXPECT_TRUE(launchers.Has("cpu.a", 2));
  EXPECT_FALSE(launchers.Has("cpu.a", 3));
  const AttrMap attrs;
  const BindRequest request{attrs, {}, {}, "a"};
  auto bound = launchers.Bind("cpu.a", 2, request);
  ASSERT_TRUE(bound.ok());
  EXPECT_EQ((*bound)->Launch({}).message(), "two");
}

TEST(LaunchersTest, NamesWhatIsMissingOrDoubled) {
  Launchers launchers;
  const AttrMap attrs;
  const BindRequest request{attrs, {}, {}, "a"};
  auto missing = launchers.Bind("cpu.a", 7, request);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), testing::HasSubstr("cpu.a version 7"));
  ASSERT_TRUE(launchers.Register("cpu.a", 7, Returning(absl::OkStatus())).ok());
  EXPECT_EQ(launchers.Register("cpu.a", 7, Returning(absl::OkStatus())).code(), absl::StatusCode::kAlreadyExists);
}

TEST(TensorViewTest, NumElements) {
  TensorView view;
  EXPECT_EQ(view.NumElements(), 1);
  view.rank = 2;
  view.dims = {3, 5};
  EXPECT_EQ(view.NumElements(), 15);
  view.dims = {3, 0};
  EXPECT_EQ(view.NumElements(), 0);
}

}  // namespace
}  // namespace flashflow::kernels
