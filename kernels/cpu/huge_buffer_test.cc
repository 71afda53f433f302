#include "kernels/cpu/huge_buffer.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace flashflow::cpu {
namespace {

TEST(HugeBufferTest, IsZeroedAlignedAndWritable) {
  for (size_t bytes : {size_t{1}, size_t{4097}, size_t{5} << 20}) {
    auto buffer = HugeBuffer::Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(buffer->size(), bytes);
    auto* data = static_cast<unsigned char*>(buffer->data());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 4096, 0u);
    EXPECT_EQ(data[bytes - 1], 0);
    data[0] = data[bytes - 1] = 7;
  }
}

TEST(HugeBufferTest, MovesItsMemory) {
  HugeBuffer a = HugeBuffer::Allocate(100).value();
  void* data = a.data();
  HugeBuffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(a.data(), nullptr);  // NOLINT(bugprone-use-after-move): the moved-from state is the contract
  a = std::move(b);
  EXPECT_EQ(a.data(), data);
  EXPECT_EQ(a.size(), 100u);
}

TEST(HugeBufferTest, EmptyAndImpossibleSizes) {
  EXPECT_EQ(HugeBuffer::Allocate(0).value().data(), nullptr);
  for (size_t bytes : {std::numeric_limits<size_t>::max(), std::numeric_limits<size_t>::max() / 2}) {
    EXPECT_EQ(HugeBuffer::Allocate(bytes).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

}  // namespace
}  // namespace flashflow::cpu
