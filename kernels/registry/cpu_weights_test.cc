#include "kernels/registry/cpu_weights.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/registry/catalog.h"

namespace flashflow::kernels {
namespace {

std::vector<std::byte> Numbered(size_t bytes) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i % 255 + 1);
  return data;
}

// Elements of `bytes` bytes are moved whole: `expected[i]` names the source element at i, -1 for padding.
void ExpectElements(const std::vector<std::byte>& packed, const std::vector<std::byte>& source, size_t bytes,
                    const std::vector<int>& expected) {
  ASSERT_EQ(packed.size(), expected.size() * bytes);
  for (size_t i = 0; i < packed.size(); ++i) {
    const int element = expected[i / bytes];
    const std::byte wanted = element < 0 ? std::byte{0} : source[static_cast<size_t>(element) * bytes + i % bytes];
    ASSERT_EQ(packed[i], wanted) << "byte " << i;
  }
}

TEST(PackCpuWeightTest, Layouts) {
  cpu::ThreadPool pool(1);
  {
    const auto source = Numbered(2 * 3 * 8);
    std::vector<std::byte> packed(source.size());
    ASSERT_TRUE(PackCpuWeight(kRowMajor, {2, 3}, DType::kI64, source, absl::MakeSpan(packed), &pool).ok());
    EXPECT_EQ(packed, source);
  }
  std::vector<int> panel16;        // [3][16] of a [2, 3] weight
  std::vector<int> panel16_vnni2;  // [2][16][2]
  for (int k = 0; k < 3; ++k) {
    for (int n = 0; n < 16; ++n) panel16.push_back(n < 2 ? n * 3 + k : -1);
  }
  for (int k = 0; k < 4; k += 2) {
    for (int n = 0; n < 16; ++n) {
      for (int i = 0; i < 2; ++i) panel16_vnni2.push_back(n < 2 && k + i < 3 ? n * 3 + k + i : -1);
    }
  }
  {
    const auto source = Numbered(2 * 3 * 4);
    std::vector<std::byte> packed(panel16.size() * 4, std::byte{0xFF});
    ASSERT_TRUE(PackCpuWeight(kPanel16, {2, 3}, DType::kF32, source, absl::MakeSpan(packed), &pool).ok());
    ExpectElements(packed, source, 4, panel16);
  }
  {
    const auto source = Numbered(2 * 3 * 2);
    std::vector<std::byte> packed(panel16_vnni2.size() * 2, std::byte{0xFF});
    ASSERT_TRUE(PackCpuWeight(kPanel16Vnni2, {2, 3}, DType::kBF16, source, absl::MakeSpan(packed), &pool).ok());
    ExpectElements(packed, source, 2, panel16_vnni2);
  }
}

// That they are packed right is the kernels' test; here, that each layout goes to its function and wrong shapes to
// none.
TEST(PackCpuWeightTest, CodesOfGroupsAndTheirScales) {
  cpu::ThreadPool pool(1);
  const auto codes = Numbered(1 * 16), scales = Numbered(1 * 1 * 2 * 2), many = Numbered(64);
  std::vector<std::byte> packed_codes(16 * 16), packed_scales(16 * 2 * 2), other(16 * 64);
  const auto pack = [&](std::string_view layout, std::vector<int64_t> shape, absl::Span<const std::byte> from,
                        absl::Span<std::byte> to, bool transposed = false) {
    const DType dtype = layout == kPanel16Int4 ? DType::kI8 : DType::kF16;
    return PackCpuWeight(layout, shape, dtype, from, to, &pool, transposed).code();
  };
  ASSERT_EQ(pack(kPanel16Int4, {1, 16}, codes, absl::MakeSpan(packed_codes)), absl::StatusCode::kOk);
  ASSERT_EQ(pack(kPanel16Groups, {1, 1, 2}, scales, absl::MakeSpan(packed_scales)), absl::StatusCode::kOk);
  EXPECT_EQ(packed_codes[64], codes[4]);
  EXPECT_EQ(packed_scales[32], scales[2]);
  constexpr auto kRefused = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(pack(kPanel16Int4, {1, 16}, codes, absl::MakeSpan(packed_codes), /*transposed=*/true), kRefused);
  EXPECT_EQ(pack(kPanel16Int4, {2, 8}, codes, absl::MakeSpan(packed_codes)), kRefused) << "half a group";
  EXPECT_EQ(pack(kPanel16Groups, {1, 1, 4}, absl::MakeSpan(many).first(8), absl::MakeSpan(other).first(16 * 4 * 2)),
            kRefused);
}

TEST(PackCpuWeightTest, TransposedSource) {
  cpu::ThreadPool pool(1);
  const auto source = Numbered(3 * 2 * 4);  // [3, 2] for a [2, 3] weight
  std::vector<std::byte> rows(source.size()), panels(3 * 16 * 4);
  ASSERT_TRUE(PackCpuWeight(kRowMajor, {2, 3}, DType::kF32, source, absl::MakeSpan(rows), &pool, true).ok());
  ExpectElements(rows, source, 4, {0, 2, 4, 1, 3, 5});
  ASSERT_TRUE(PackCpuWeight(kPanel16, {2, 3}, DType::kF32, source, absl::MakeSpan(panels), &pool, true).ok());
  std::vector<int> expected(3 * 16, -1);
  for (int k = 0; k < 3; ++k) {
    for (int n = 0; n < 2; ++n) expected[static_cast<size_t>(k * 16 + n)] = k * 2 + n;
  }
  ExpectElements(panels, source, 4, expected);
  EXPECT_EQ(PackCpuWeight(kRowMajor, {6}, DType::kF32, source, absl::MakeSpan(rows), &pool, true).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PackCpuWeightTest, RefusesSizesThatDoNotFit) {
  cpu::ThreadPool pool(1);
  std::vector<std::byte> small(16), big(4096);
  const auto code = [&](absl::Span<const std::byte> from, absl::Span<std::byte> to) {
    return PackCpuWeight(kPanel16, {2, 2}, DType::kF32, from, to, &pool).code();
  };
  EXPECT_EQ(code(small, absl::MakeSpan(big).first(2 * 16 * 4)), absl::StatusCode::kOk);
  EXPECT_EQ(code(small, absl::MakeSpan(big).first(2 * 16 * 4 - 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(small, absl::MakeSpan(big)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(absl::MakeSpan(small).first(12), absl::MakeSpan(big).first(2 * 16 * 4)),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PackCpuWeight("spiral", {2, 2}, DType::kF32, small, absl::MakeSpan(big).first(16), &pool).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(PackCpuWeight(kPanel16, {0, 7}, DType::kF32, {}, {}, &pool).ok());
}

}  // namespace
}  // namespace flashflow::kernels
