// The kernels compiled ahead of time, launched without Python, against the same sums in f64 on the CPU.
#include "kernels/triton/triton_kernel.h"

#include <cuda_runtime.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/base/casts.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace flashflow::triton {
namespace {

constexpr double kEps = 0x1p-8;      // of bf16
constexpr double kSumEps = 0x1p-24;  // of f32
constexpr double kLog2E = 1.4426950408889634;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// bf16 is the upper half of f32.
uint16_t ToBf16(float value) {
  const uint32_t bits = absl::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
double FromBf16(uint16_t bits) { return absl::bit_cast<float>(uint32_t{bits} << 16); }

// A tensor on both sides; its numbers are bf16's.
struct Tensor {
  std::vector<uint16_t> host;
  uint16_t* device = nullptr;

  explicit Tensor(size_t count, float scale = 0, uint32_t seed = 0) : host(count) {
    std::mt19937 generator(seed);
    std::uniform_real_distribution<float> uniform(-scale, scale);
    for (uint16_t& value : host) value = ToBf16(uniform(generator));
    EXPECT_EQ(cudaMalloc(&device, count * sizeof(host[0])), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(device, host.data(), count * sizeof(host[0]), cudaMemcpyHostToDevice), cudaSuccess);
  }
  Tensor(const Tensor&) = delete;
  ~Tensor() { cudaFree(device); }

  double operator[](size_t i) const { return FromBf16(host[i]); }
  void Read() {
    ASSERT_EQ(cudaMemcpy(host.data(), device, host.size() * sizeof(host[0]), cudaMemcpyDeviceToHost), cudaSuccess);
  }
};

class Integers {
 public:
  explicit Integers(const std::vector<int>& values) {
    EXPECT_EQ(cudaMalloc(&device_, values.size() * sizeof(int)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(device_, values.data(), values.size() * sizeof(int), cudaMemcpyHostToDevice), cudaSuccess);
  }
  Integers(const Integers&) = delete;
  ~Integers() { cudaFree(device_); }
  const void* device() const { return device_; }

 private:
  int* device_ = nullptr;
};

class TritonKernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int major = 0, minor = 0;
    ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
    ASSERT_EQ(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), cudaSuccess);
    const char* listed = std::getenv("TRITON_CUBINS");
    ASSERT_NE(listed, nullptr);
    for (const std::string& path : std::vector<std::string>(absl::StrSplit(listed, ' ', absl::SkipEmpty()))) {
      if (!absl::EndsWith(path, ".json")) continue;
      const auto metadata = ParseKernelMetadata(ReadFile(path));
      ASSERT_TRUE(metadata.ok()) << metadata.status();
      const std::string stem = path.substr(0, path.size() - 5);  // .json
      const std::string cubin = ReadFile(stem + ".cubin");
      const size_t slash = stem.rfind('/') + 1;
      const std::string name = stem.substr(slash, stem.rfind('.') - slash);
      auto kernel = TritonKernel::Load(*metadata, {reinterpret_cast<const unsigned char*>(cubin.data()), cubin.size()});
      if (!RunsOn(*metadata, major, minor)) {
        EXPECT_EQ(kernel.status().code(), absl::StatusCode::kFailedPrecondition) << path;
        continue;
      }
      ASSERT_TRUE(kernel.ok()) << kernel.status();
      kernels_.emplace(name, *std::move(kernel));
    }
    if (kernels_.empty()) GTEST_SKIP() << "no kernel was compiled for a GPU of " << major << "." << minor;
    ASSERT_EQ(kernels_.size(), 7u);
  }

  void Launch(const std::string& name, dim3 grid, std::vector<Argument> arguments) {
    const absl::Status status = kernels_.at(name).Launch(grid, arguments, nullptr);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  std::map<std::string, TritonKernel> kernels_;
};

TEST_F(TritonKernelTest, RefusesWhatIsNoCubin) {
  const KernelMetadata metadata = kernels_.begin()->second.metadata();
  std::vector<unsigned char> bytes(metadata.cubin_bytes);
  EXPECT_EQ(TritonKernel::Load(metadata, bytes).status().code(), absl::StatusCode::kInvalidArgument);
  bytes.pop_back();
  EXPECT_EQ(TritonKernel::Load(metadata, bytes).status().code(), absl::StatusCode::kInvalidArgument);
}

// y = gelu(layer_norm(x) up^T + bias), then y down^T + bias + x: the tolerance is the rounding of the normalized row
// and of the result, and that of f32 sums.
TEST_F(TritonKernelTest, LinearLayers) {
  constexpr int kC = 768, kH = 3072;
  const Tensor up(size_t{kH} * kC, 0.05f, 1), up_bias(kH, 1, 2), norm_weight(kC, 1, 3), norm_bias(kC, 1, 4);
  const Tensor down(size_t{kC} * kH, 0.05f, 5), down_bias(kC, 1, 6);
  for (const auto& [rows, m, block_m, block_n] :
       {std::tuple{"few_rows", 5, 16, 32}, std::tuple{"many_rows", 130, 128, 128}}) {
    SCOPED_TRACE(rows);
    const Tensor x(size_t(m) * kC, 2, 7);
    Tensor hidden(size_t(m) * kH), y(size_t(m) * kC);
    const auto blocks = [](int count, int block) { return static_cast<unsigned>((count + block - 1) / block); };
    Launch(std::string("up_768_3072_") + rows, dim3(blocks(kH, block_n), blocks(m, block_m)),
           {x.device, up.device, up_bias.device, nullptr, norm_weight.device, norm_bias.device, hidden.device,
            int32_t{m}, 1e-5f});
    hidden.Read();
    Launch(std::string("down_3072_768_") + rows, dim3(blocks(kC, block_n), blocks(m, block_m)),
           {hidden.device, down.device, down_bias.device, x.device, nullptr, nullptr, y.device, int32_t{m}, 1e-5f});
    y.Read();
    for (const int i : {0, m / 2, m - 1}) {
      double mean = 0, squares = 0;
      for (int c = 0; c < kC; ++c) mean += x[i * kC + c] / kC;
      for (int c = 0; c < kC; ++c) squares += std::pow(x[i * kC + c] - mean, 2) / kC;
      for (const int j : {0, 31, 32, 1777, kH - 1}) {
        double sum = up_bias[j], size = std::abs(up_bias[j]);
        for (int c = 0; c < kC; ++c) {
          const double h = (x[i * kC + c] - mean) / std::sqrt(squares + 1e-5) * norm_weight[c] + norm_bias[c];
          sum += h * up[j * kC + c];
          size += std::abs(h * up[j * kC + c]);
        }
        const double want = sum / 2 * (1 + std::tanh(0.7978845608028654 * (sum + 0.044715 * sum * sum * sum)));
        // GELU's slope is at most 1.13.
        const double tolerance = kEps / 2 * std::abs(want) + 1.13 * (kEps / 2 + kC * kSumEps) * size + 1e-6;
        EXPECT_NEAR(hidden[i * kH + j], want, tolerance) << i << ", " << j;
      }
      for (const int j : {0, 31, 32, 500, kC - 1}) {
        double want = down_bias[j] + x[i * kC + j], size = std::abs(down_bias[j]) + std::abs(x[i * kC + j]);
        for (int h = 0; h < kH; ++h) {
          want += hidden[i * kH + h] * down[j * kH + h];
          size += std::abs(hidden[i * kH + h] * down[j * kH + h]);
        }
        EXPECT_NEAR(y[i * kC + j], want, kEps / 2 * std::abs(want) + kH * kSumEps * size) << i << ", " << j;
      }
    }
  }
}

constexpr int kHeads = 12, kD = 64;

// Attention of one query over keys 0 ... count - 1, key and value j at offsets key(j) and value(j).
template <class Key, class Value>
std::vector<double> Attend(const Tensor& q, size_t q_at, const Tensor& k, const Tensor& v, int count, Key key,
                           Value value) {
  std::vector<double> weights(count), out(kD);
  double total = 0;
  for (int j = 0; j < count; ++j) {
    double score = 0;
    for (int d = 0; d < kD; ++d) score += q[q_at + d] * k[key(j) + d];
    total += weights[j] = std::exp(score / 8);
  }
  for (int j = 0; j < count; ++j) {
    for (int d = 0; d < kD; ++d) out[d] += weights[j] / total * v[value(j) + d];
  }
  return out;
}

// |v| <= 1: probabilities and the result are rounded to bf16; scores are below 8 * 64 / 8, their f32 error below 1e-4.
constexpr double kAttentionTolerance = 1.5 * kEps + 2e-4;

TEST_F(TritonKernelTest, PrefillOfTwoSequences) {
  const std::vector<int> lengths = {129, 40};
  const Integers starts({0, 129, 169});
  const size_t count = 169 * kHeads * kD;
  const Tensor q(count, 1, 1), k(count, 1, 2), v(count, 1, 3);
  Tensor o(count);
  Launch("prefill_12x64", dim3(2, kHeads, 2),
         {q.device, k.device, v.device, o.device, starts.device(), starts.device(), static_cast<float>(kLog2E / 8),
          int32_t{0}});
  o.Read();
  for (const auto& [first, i] : {std::pair{0, 0}, {0, 63}, {0, 128}, {129, 0}, {129, 39}}) {
    for (const int head : {0, 11}) {
      const auto at = [&, first = first](int j) { return size_t(first + j) * kHeads * kD + head * kD; };
      const std::vector<double> want = Attend(q, at(i), k, v, i + 1, at, at);
      for (int d = 0; d < kD; ++d) EXPECT_NEAR(o[at(i) + d], want[d], kAttentionTolerance) << first + i << " " << d;
    }
  }
}

TEST_F(TritonKernelTest, DecodeOverPages) {
  constexpr int kPage = 16, kPages = 40, kTable = 20, kSplits = 8;
  const std::vector<int> lengths = {1, 63, 300};
  std::vector<int> table(lengths.size() * kTable);
  std::mt19937 generator(1);
  for (int& page : table) page = static_cast<int>(generator() % kPages);
  const Integers kv_len(lengths), block_table(table);
  const Tensor q(lengths.size() * kHeads * kD, 1, 1), cache(size_t{kPages} * 2 * kHeads * kPage * kD, 1, 2);
  Tensor o(lengths.size() * kHeads * kD);
  float* partial = nullptr;
  ASSERT_EQ(cudaMalloc(&partial, lengths.size() * kHeads * kSplits * (kD + 2) * sizeof(float)), cudaSuccess);
  Launch("decode_12x64", dim3(lengths.size(), kHeads, kSplits),
         {q.device, cache.device, kv_len.device(), block_table.device(), int32_t{kTable}, partial,
          static_cast<float>(kLog2E / 8), int32_t{0}});
  Launch("merge_12x64", dim3(lengths.size(), kHeads), {partial, o.device});
  cudaFree(partial);
  o.Read();
  for (size_t row = 0; row < lengths.size(); ++row) {
    for (const int head : {0, 7}) {
      const auto key = [&](int j) {
        return ((size_t(table[row * kTable + j / kPage]) * 2 * kHeads + head) * kPage + j % kPage) * kD;
      };
      const auto value = [&](int j) { return key(j) + size_t{kHeads} * kPage * kD; };
      const size_t at = (row * kHeads + head) * kD;
      const std::vector<double> want = Attend(q, at, cache, cache, lengths[row], key, value);
      for (int d = 0; d < kD; ++d) EXPECT_NEAR(o[at + d], want[d], kAttentionTolerance) << row << " " << d;
    }
  }
}

}  // namespace
}  // namespace flashflow::triton
