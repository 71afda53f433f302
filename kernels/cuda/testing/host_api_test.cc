#include "kernels/cuda/testing/host_api.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/testing/host_memory.h"

namespace flashflow::cuda::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class HostApiTest : public ::testing::Test {
 protected:
  void Start(const HostApiOptions& options) {
    host_ = std::make_unique<HostApi>(options);
    ASSERT_EQ(api().stream_create(&stream_), cudaSuccess);
  }
  const Api& api() { return host_->api(); }

  template <class T>
  T* Device(const std::vector<T>& values) {
    T* data = Room<T>(values.size());
    EXPECT_EQ(api().memcpy_async(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream_),
              cudaSuccess);
    return data;
  }
  template <class T>
  T* Room(size_t count) {
    void* data = nullptr;
    EXPECT_EQ(api().malloc_device(&data, count * sizeof(T)), cudaSuccess);
    return static_cast<T*>(data);
  }
  template <class T>
  std::vector<T> Host(const T* data, size_t count) {
    std::vector<T> values(count);
    EXPECT_EQ(api().memcpy_async(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost, stream_), cudaSuccess);
    EXPECT_EQ(api().stream_synchronize(stream_), cudaSuccess);
    return values;
  }

  // d[1, 1] = a[1, 2] * w[1, 2].
  GemmArgs Dot(const float* a, const float* w, float* d) {
    GemmArgs args;
    args.dtype = Dtype::kF32;
    args.a = a;
    args.w = w;
    args.d = d;
    args.m = args.n = 1;
    args.k = 2;
    args.lda = args.ldw = 2;
    args.ldd = args.ld_residual = 1;
    return args;
  }

  std::unique_ptr<HostApi> host_;
  cudaStream_t stream_ = nullptr;
};

// Every half, and what lies between two of them.
TEST(HostMemoryTest, RoundsToHalves) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float low = FromHalf(static_cast<uint16_t>(bits));
    const float high = bits == 0x7bff ? 65536.0f : FromHalf(static_cast<uint16_t>(bits + 1));
    ASSERT_LT(low, high);
    ASSERT_EQ(ToHalf(low), bits);
    ASSERT_EQ(ToHalf(-low), bits | 0x8000);
    const float middle = (low + high) / 2;
    ASSERT_EQ(ToHalf(middle), bits + bits % 2);
    ASSERT_EQ(ToHalf(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(ToHalf(std::nextafter(middle, INFINITY)), bits + 1);
  }
  EXPECT_EQ(FromHalf(0x3c00), 1);
  EXPECT_EQ(FromHalf(1), 0x1p-24f);
  EXPECT_TRUE(std::isnan(FromHalf(ToHalf(NAN))));
}

TEST(HostMemoryTest, RoundsToBf16) {
  const auto rounded = [](float value) { return Rounded(Dtype::kBf16, value); };
  EXPECT_EQ(rounded(1.00390625f), 1) << "a tie, to even";
  EXPECT_EQ(rounded(1.01171875f), 1.015625f);
  EXPECT_EQ(rounded(1.00390637f), 1.0078125f);
  EXPECT_EQ(rounded(-INFINITY), -INFINITY);
  EXPECT_TRUE(std::isnan(rounded(NAN)));
}

// A function that is new in Api is wanted here too.
TEST_F(HostApiTest, TheTableIsWhole) {
  Start({});
  using Function = void (*)();
  Function functions[sizeof(Api) / sizeof(Function)];
  static_assert(sizeof(functions) == sizeof(Api));
  std::memcpy(functions, &api(), sizeof(functions));
  for (size_t i = 0; i < std::size(functions); ++i) EXPECT_NE(functions[i], nullptr) << "function " << i;
}

TEST_F(HostApiTest, DeviceMemoryHasAnEnd) {
  Start({.memory_bytes = 1024});
  size_t left = 0, total = 0;
  void *first = nullptr, *second = nullptr;
  EXPECT_EQ(api().malloc_device(&first, 1000), cudaSuccess);
  EXPECT_EQ(api().malloc_device(&second, 25), cudaErrorMemoryAllocation);
  EXPECT_EQ(api().get_last_error(), cudaErrorMemoryAllocation);
  EXPECT_EQ(api().get_last_error(), cudaSuccess);
  EXPECT_EQ(api().mem_get_info(&left, &total), cudaSuccess);
  EXPECT_EQ(std::pair(left, total), (std::pair<size_t, size_t>(24, 1024)));
  EXPECT_EQ(host_->device_bytes(), 1000);
  EXPECT_EQ(host_->live_objects(), 2);  // and the stream
  EXPECT_EQ(api().free_device(static_cast<char*>(first) + 1), cudaErrorInvalidValue);
  EXPECT_EQ(api().free_device(first), cudaSuccess);
  EXPECT_EQ(api().stream_destroy(stream_), cudaSuccess);
  EXPECT_EQ(api().stream_destroy(stream_), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(host_->live_objects(), 0);
}

TEST_F(HostApiTest, FindsOperandsOutsideOfDeviceMemory) {
  std::vector<float> on_host = {1, 2};
  for (const char* wrong : {"a host pointer", "past the end", "freed"}) {
    SCOPED_TRACE(wrong);
    Start({});
    float *a = Device<float>({1, 2}), *w = Device<float>({3, 4}), *d = Room<float>(1);
    GemmArgs args = Dot(a, w, d);
    EXPECT_EQ(api().gemm(args, stream_), cudaSuccess);
    if (wrong == std::string("a host pointer")) args.a = on_host.data();
    if (wrong == std::string("past the end")) args.d = d + 1;
    if (wrong == std::string("freed")) {
      EXPECT_EQ(api().free_device(w), cudaSuccess);
    }
    EXPECT_EQ(api().gemm(args, stream_), cudaErrorIllegalAddress);
    EXPECT_EQ(api().stream_synchronize(stream_), cudaErrorIllegalAddress) << "and from then on";
    host_.reset();
  }
  Start({});
  float* d = Room<float>(2);
  EXPECT_EQ(api().memcpy_async(on_host.data(), d, 8, cudaMemcpyHostToDevice, stream_), cudaErrorInvalidValue);
  EXPECT_EQ(api().memcpy_async(d, on_host.data(), 12, cudaMemcpyHostToDevice, stream_), cudaErrorInvalidValue);
}

TEST_F(HostApiTest, DeferredWorkIsDoneOnceItIsAwaited) {
  Start({.deferred = true});
  float *a = Device<float>({1, 2}), *w = Device<float>({3, 4}), *d = Room<float>(1);
  float* pinned = nullptr;
  ASSERT_EQ(api().malloc_host(reinterpret_cast<void**>(&pinned), 8), cudaSuccess);
  pinned[0] = 5;
  pinned[1] = 6;
  EXPECT_EQ(api().memcpy_async(a, pinned, 8, cudaMemcpyHostToDevice, stream_), cudaSuccess);
  EXPECT_EQ(api().gemm(Dot(a, w, d), stream_), cudaSuccess);
  EXPECT_EQ(api().memcpy_async(pinned + 1, d, 4, cudaMemcpyDeviceToHost, stream_), cudaSuccess);
  EXPECT_THAT(host_->TakeKernels(), IsEmpty());
  EXPECT_EQ(pinned[1], 6);
  pinned[0] = 7;  // too early: the copy has not been made
  EXPECT_EQ(api().stream_synchronize(stream_), cudaSuccess);
  EXPECT_EQ(pinned[1], 7 * 3 + 6 * 4);
  EXPECT_THAT(host_->TakeKernels(), ElementsAre("gemm"));
}

TEST_F(HostApiTest, EventsOrderStreams) {
  Start({.deferred = true});
  float *a = Device<float>({1, 2}), *w = Device<float>({3, 4}), *d = Room<float>(1), *e = Room<float>(1);
  cudaStream_t other = nullptr;
  cudaEvent_t begun = nullptr, done = nullptr;
  ASSERT_EQ(api().stream_create(&other), cudaSuccess);
  ASSERT_EQ(api().event_create(&begun), cudaSuccess);
  ASSERT_EQ(api().event_create(&done), cudaSuccess);
  EXPECT_EQ(api().event_record(begun, stream_), cudaSuccess);
  EXPECT_EQ(api().gemm(Dot(a, w, d), stream_), cudaSuccess);
  EXPECT_EQ(api().event_record(done, stream_), cudaSuccess);
  EXPECT_EQ(api().embedding({}, stream_), cudaErrorInvalidValue);
  EXPECT_EQ(api().softmax({.x = d, .y = e, .rows = 1, .columns = 1, .ldx = 1, .ldy = 1, .dtype = Dtype::kF32}, stream_),
            cudaSuccess);
  float milliseconds = -1;
  EXPECT_EQ(api().event_elapsed_time(&milliseconds, begun, done), cudaErrorNotReady);
  EXPECT_EQ(api().stream_wait_event(other, done), cudaSuccess);
  EXPECT_EQ(api().stream_synchronize(other), cudaSuccess);
  EXPECT_THAT(host_->TakeKernels(), ElementsAre("gemm")) << "what comes after the event is not waited for";
  EXPECT_EQ(api().event_elapsed_time(&milliseconds, begun, done), cudaSuccess);
  EXPECT_GE(milliseconds, 0);
  EXPECT_THAT(Host(e, 1), ElementsAre(1));
}

TEST_F(HostApiTest, GraphsRepeatWhatWasCaptured) {
  Start({});
  float *a = Device<float>({1, 2}), *w = Device<float>({3, 4}), *d = Device<float>({-1});
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t runnable = nullptr;
  ASSERT_EQ(api().stream_begin_capture(stream_), cudaSuccess);
  EXPECT_EQ(api().gemm(Dot(a, w, d), stream_), cudaSuccess);
  ASSERT_EQ(api().stream_end_capture(stream_, &graph), cudaSuccess);
  EXPECT_THAT(Host(d, 1), ElementsAre(-1)) << "a capture computes nothing";
  ASSERT_EQ(api().graph_instantiate(&runnable, graph), cudaSuccess);
  EXPECT_EQ(api().graph_destroy(graph), cudaSuccess);
  const std::vector<float> next = {10, 20};
  EXPECT_EQ(api().memcpy_async(a, next.data(), 8, cudaMemcpyHostToDevice, stream_), cudaSuccess);
  EXPECT_EQ(api().graph_launch(runnable, stream_), cudaSuccess);
  EXPECT_THAT(Host(d, 1), ElementsAre(110)) << "of what lies in memory when it is launched";
  EXPECT_EQ(api().graph_launch(runnable, stream_), cudaSuccess);
  EXPECT_THAT(host_->TakeKernels(), ElementsAre("gemm", "gemm"));
  EXPECT_EQ(api().graph_exec_destroy(runnable), cudaSuccess);
  EXPECT_EQ(api().graph_launch(runnable, stream_), cudaErrorInvalidValue);
}

TEST_F(HostApiTest, WhatCannotBeCapturedSpoilsTheCapture) {
  Start({});
  void* data = nullptr;
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(api().stream_begin_capture(stream_), cudaSuccess);
  EXPECT_EQ(api().stream_begin_capture(stream_), cudaErrorIllegalState);
  EXPECT_EQ(api().malloc_device(&data, 8), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(api().stream_end_capture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(graph, nullptr);
  ASSERT_EQ(api().stream_begin_capture(stream_), cudaSuccess);
  EXPECT_EQ(api().stream_synchronize(stream_), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(api().stream_end_capture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(api().stream_end_capture(stream_, &graph), cudaErrorIllegalState);
}

TEST_F(HostApiTest, FailsWhatItIsToldTo) {
  Start({});
  float *a = Device<float>({1, 2}), *w = Device<float>({3, 4}), *d = Device<float>({-1});
  host_->Fail("gemm", cudaErrorLaunchFailure, /*skip=*/1);
  host_->Fail("malloc_host", cudaErrorMemoryAllocation);
  EXPECT_EQ(api().gemm(Dot(a, w, d), stream_), cudaSuccess);
  EXPECT_EQ(api().gemm(Dot(a, a, d), stream_), cudaErrorLaunchFailure);
  EXPECT_THAT(Host(d, 1), ElementsAre(11));
  EXPECT_EQ(api().gemm(Dot(a, a, d), stream_), cudaSuccess);
  void* data = nullptr;
  EXPECT_EQ(api().malloc_host(&data, 8), cudaErrorMemoryAllocation);
  EXPECT_FALSE(host_->TakeBackFailures());
  host_->Fail("gemm", cudaErrorLaunchFailure);
  EXPECT_TRUE(host_->TakeBackFailures());
  EXPECT_EQ(api().gemm(Dot(a, a, d), stream_), cudaSuccess);
}

TEST_F(HostApiTest, Products) {
  Start({});
  // bf16, with everything: silu(a w0 + bias0) * (a w1 + bias1) + residual, into f32.
  const auto bf16 = [&](const std::vector<float>& values) {
    std::vector<uint16_t> narrow;
    for (const float value : values) narrow.push_back(ToBf16(value));
    return Device(narrow);
  };
  std::vector<float> weights(16, 0.0f);
  weights[0] = 0.5f;
  weights[8] = -2;
  GemmArgs args;
  args.a = bf16({2, 0, 0, 0, 0, 0, 0, 0});
  args.w = bf16(weights);
  args.bias = Device<float>({1.0009765625f, 1});  // no bf16
  args.residual = bf16({0.25f});
  float* d = Room<float>(1);
  args.d = d;
  args.m = args.n = 1;
  args.k = 8;
  args.lda = args.ldw = 8;
  args.ldd = args.ld_residual = 1;
  args.activation = Activation::kSilu;
  args.gated = args.f32_output = true;
  ASSERT_EQ(api().gemm(args, stream_), cudaSuccess);
  const double gate = 2.0009765625;
  EXPECT_FLOAT_EQ(Host(d, 1)[0], static_cast<float>(gate / (1 + std::exp(-gate)) * -3 + 0.25));
  args.norm.gamma = Device<float>({1.5, 0, 0, 0, 0, 0, 0, 0});
  args.norm.epsilon = 0.5f;
  args.norm.rms = true;
  EXPECT_EQ(api().gemm_portable(args, stream_), cudaErrorNotSupported) << "a norm";
  ASSERT_EQ(api().gemm(args, stream_), cudaSuccess);
  // 2 / sqrt(2^2 / 8 + 0.5) * 1.5 = 3 in place of 2.
  const double normed = 2.5009765625;
  EXPECT_FLOAT_EQ(Host(d, 1)[0], static_cast<float>(normed / (1 + std::exp(-normed)) * -5 + 0.25));
  args.norm = {};
  args.k = 7;
  EXPECT_EQ(api().gemm(args, stream_), cudaErrorNotSupported);

  // 8-bit codes.
  GemmArgs codes;
  codes.dtype = Dtype::kS8;
  codes.a = Device<int8_t>(std::vector<int8_t>(16, 127));
  codes.w = Device<int8_t>(std::vector<int8_t>(16, -127));
  codes.a_scale = Device<float>({0.5f});
  codes.w_scale = Device<float>({0.25f});
  codes.bias = Device<float>({1});
  codes.d = d;
  codes.m = codes.n = 1;
  codes.k = 16;
  codes.lda = codes.ldw = 16;
  codes.ldd = 1;
  codes.f32_output = true;
  ASSERT_EQ(api().gemm_rows_sm90(codes, {}, stream_), cudaSuccess);
  EXPECT_EQ(Host(d, 1)[0], -127 * 127 * 16 * 0.125f + 1);
}

TEST_F(HostApiTest, Norms) {
  Start({});
  float* y = Room<float>(8);
  float* sum = Room<float>(8);
  NormArgs args;
  args.dtype = Dtype::kF32;
  args.x = Device<float>({1, 1, 1, 1, 3, 3, 3, 3});
  args.residual = Device<float>({1, 1, 1, 1, 1, 1, 1, 1});
  args.sum = sum;
  args.gamma = Device<float>({1, 1, 1, 1, 1, 1, 1, 2});
  args.beta = Device<float>({0, 0, 0, 0, 0, 0, 0, 1});
  args.y = y;
  args.rows = 1;
  args.columns = args.ld = 8;
  ASSERT_EQ(api().norm(args, stream_), cudaSuccess);
  EXPECT_THAT(Host(sum, 8), ElementsAre(2, 2, 2, 2, 4, 4, 4, 4));
  EXPECT_THAT(Host(y, 8), ElementsAre(-1, -1, -1, -1, 1, 1, 1, 3));
  args.rms = true;
  EXPECT_EQ(api().norm(args, stream_), cudaErrorInvalidValue);
  args.beta = nullptr;
  ASSERT_EQ(api().norm(args, stream_), cudaSuccess);
  EXPECT_FLOAT_EQ(Host(y, 8)[7], 4 / std::sqrt(10.0f) * 2);
  int8_t* codes = Room<int8_t>(8);
  float* scale = Room<float>(1);
  const float* x = Device<float>({127, 0.5f, 1.5f, -2.5f, -200, 0, 0, 0});
  ASSERT_EQ(api().quantize({.x = x,
                            .codes = codes,
                            .scale = scale,
                            .rows = 1,
                            .columns = 8,
                            .ldx = 8,
                            .ld_codes = 8,
                            .clip = 127,
                            .dtype = Dtype::kF32},
                           stream_),
            cudaSuccess);
  EXPECT_THAT(Host(codes, 8), ElementsAre(127, 0, 2, -2, -127, 0, 0, 0));
  EXPECT_THAT(Host(scale, 1), ElementsAre(1));
}

TEST_F(HostApiTest, LookupsGiveNaNForUnknownIds) {
  Start({});
  float* out = Room<float>(6);
  const float* table = Device<float>({1, 2, 3, 4});
  ASSERT_EQ(api().embedding({.table_dtype = Dtype::kF32,
                             .out_dtype = Dtype::kF32,
                             .table = table,
                             .ids = Device<int32_t>({1, 2, 0}),
                             .out = out,
                             .table_rows = 2,
                             .tokens = 3,
                             .channels = 2},
                            stream_),
            cudaSuccess);
  EXPECT_THAT(Host(out, 6), ElementsAre(3, 4, ::testing::IsNan(), ::testing::IsNan(), 1, 2));
}

// Two rows, of one and two new tokens, over pages of two slots: what rope_append writes, paged attention reads as
// attention without pages does.
TEST_F(HostApiTest, PagedAttentionIsAttention) {
  Start({});
  constexpr int kTokens = 3, kHeads = 2, kDim = 8, kWidth = (kHeads + 2) * kDim;
  std::vector<float> qkv(kTokens * kWidth);
  for (size_t i = 0; i < qkv.size(); ++i) qkv[i] = std::sin(static_cast<float>(i));
  float* data = Device(qkv);
  float* cache = Room<float>(4 * 2 * 2 * kDim);
  const PagedRows rows = {.row_start = Device<int32_t>({0, 1, 3}),
                          .kv_len = Device<int32_t>({1, 2}),
                          .block_table = Device<int32_t>({3, 99, 1, 99}),
                          .rows = 2,
                          .pages_per_row = 2};
  RopeAppendArgs append;
  append.dtype = Dtype::kF32;
  append.k = {data + kHeads * kDim, kWidth};
  append.v = {data + (kHeads + 1) * kDim, kWidth};
  append.cache = cache;
  append.rows = rows;
  append.tokens = kTokens;
  append.kv_heads = 1;
  append.head_dim = kDim;
  append.page_size = 2;
  ASSERT_EQ(api().rope_append(append, stream_), cudaSuccess);

  PagedAttentionArgs paged;
  float* o = Room<float>(kTokens * kHeads * kDim);
  paged.dtype = Dtype::kF32;
  paged.q = data;
  paged.q_stride = kWidth;
  paged.o = o;
  paged.cache = cache;
  paged.rows = rows;
  paged.max_row_tokens = 2;
  paged.heads = kHeads;
  paged.kv_heads = 1;
  paged.head_dim = kDim;
  paged.page_size = 2;
  paged.scale = 0.5f;
  EXPECT_EQ(api().paged_prefill(paged, stream_), cudaErrorNotSupported) << "f32";
  ASSERT_EQ(api().paged_attention(paged, stream_), cudaSuccess);

  AttentionArgs plain;
  float* expected = Room<float>(kTokens * kHeads * kDim);
  plain.dtype = Dtype::kF32;
  plain.q = {data, 0, kWidth, kDim};
  plain.k = {data + kHeads * kDim, 0, kWidth, kDim};
  plain.v = {data + (kHeads + 1) * kDim, 0, kWidth, kDim};
  plain.o = {expected, 0, kHeads * kDim, kDim};
  plain.batch = 2;
  plain.heads = kHeads;
  plain.kv_heads = 1;
  plain.q_tokens = plain.kv_tokens = 2;
  plain.head_dim = kDim;
  plain.scale = 0.5f;
  plain.q_start = plain.kv_start = Device<int32_t>({0, 1, 3});
  ASSERT_EQ(api().fused_attention(plain, stream_), cudaSuccess);
  const std::vector<float> got = Host(o, kTokens * kHeads * kDim);
  EXPECT_EQ(got, Host(expected, kTokens * kHeads * kDim));
  EXPECT_EQ(std::vector<float>(got.begin(), got.begin() + kDim),
            std::vector<float>(qkv.begin() + (kHeads + 1) * kDim, qkv.begin() + kWidth))
      << "a token alone sees its own value";

  paged.tokens = kTokens;
  EXPECT_EQ(api().paged_attention(paged, stream_), cudaSuccess);
  paged.tokens = -1;
  EXPECT_EQ(api().paged_attention(paged, stream_), cudaErrorInvalidValue);
  paged.tokens = 0;
  paged.max_row_tokens = 1;
  EXPECT_EQ(api().paged_attention(paged, stream_), cudaErrorInvalidValue) << "a row has two";
}

// Codes and scales behind them, by the definition; and a token that sees itself alone gets its own value back.
TEST_F(HostApiTest, CachesOfCodes) {
  Start({});
  constexpr int kDim = 8, kPage = 4;
  std::vector<float> k(kDim, 0.0f), v(kDim, 0.0f);
  k[0] = -127, k[1] = 2.5f, k[2] = 3.5f;
  v[7] = 254, v[6] = 3;
  float *o = Room<float>(kDim), *q = Device(k);
  auto* cache = Room<int8_t>(2 * kPage * (kDim + 4));
  Int8AppendArgs append;
  append.dtype = Dtype::kF32;
  append.k = {q, kDim};
  append.v = {Device(v), kDim};
  append.cache = cache;
  append.rows = {Device<int32_t>({0, 1}), Device<int32_t>({1}), Device<int32_t>({0}), 1, 1};
  append.tokens = append.kv_heads = 1;
  append.head_dim = kDim;
  append.page_size = kPage;
  ASSERT_EQ(api().int8_append(append, stream_), cudaSuccess);
  EXPECT_THAT(Host(cache, kDim), ElementsAre(-127, 2, 4, 0, 0, 0, 0, 0));
  EXPECT_EQ(Host(reinterpret_cast<float*>(cache + kPage * kDim), 1)[0], 1.0f);
  EXPECT_EQ(Host(reinterpret_cast<float*>(cache + kPage * (kDim + 4) + kPage * kDim), 1)[0], 2.0f);

  Int8AttentionArgs attend;
  attend.dtype = Dtype::kF32;
  attend.q = q;
  attend.q_stride = kDim;
  attend.o = o;
  attend.cache = cache;
  attend.rows = append.rows;
  attend.heads = attend.kv_heads = 1;
  attend.head_dim = kDim;
  attend.page_size = kPage;
  attend.scale = 1;
  ASSERT_EQ(api().int8_attention(attend, stream_), cudaSuccess);
  EXPECT_THAT(Host(o, kDim), ElementsAre(0, 0, 0, 0, 0, 0, 4, 254));  // 3 is a tie between codes 1 and 2

  attend.page_size = append.page_size = 2;
  EXPECT_EQ(api().int8_append(append, stream_), cudaErrorNotSupported);
  EXPECT_EQ(api().int8_attention(attend, stream_), cudaErrorNotSupported);
  append.page_size = kPage;
  append.rows.block_table = Device<int32_t>({1});  // no such page
  EXPECT_EQ(api().int8_append(append, stream_), cudaErrorIllegalAddress);
}

TEST_F(HostApiTest, RotatesPairsOfChannels) {
  Start({});
  float *q = Device<float>({1, 2, 3, 4}), *k = Device<float>({5, 6, 7, 8}), *cache = Room<float>(8);
  RopeAppendArgs args;
  args.dtype = Dtype::kF32;
  args.q = args.q_out = {q, 4};
  args.k = args.v = {k, 4};
  args.cos = Device<float>({0, 1, 0, 1});
  args.sin = Device<float>({1, 0, 1, 0});
  args.cache = cache;
  args.rows = {Device<int32_t>({0, 1}), Device<int32_t>({1}), Device<int32_t>({0}), 1, 1};
  args.tokens = args.heads = args.kv_heads = args.page_size = 1;
  args.head_dim = 4;
  ASSERT_EQ(api().rope_append(args, stream_), cudaSuccess);
  EXPECT_THAT(Host(q, 4), ElementsAre(-3, 2, 1, 4));
  EXPECT_THAT(Host(cache, 8), ElementsAre(-7, 6, 5, 8, 5, 6, 7, 8));
  args.rows.block_table = Device<int32_t>({1});  // no such page
  EXPECT_EQ(api().rope_append(args, stream_), cudaErrorIllegalAddress);
}

TEST_F(HostApiTest, Draws) {
  Start({});
  constexpr int kRows = 5, kVocab = 4;
  std::vector<float> logits;
  for (int row = 0; row < kRows; ++row) logits.insert(logits.end(), {1, 3, 3, 2});
  logits[4 * kVocab] = INFINITY;
  std::vector<SamplingRow> how(kRows);
  how[1].repetition_penalty = 2;
  how[2].temperature = 1;
  how[2].top_k = 1;
  how[3].temperature = 100;
  how[3].top_p = 0.2f;  // less than one token's share
  int32_t* tokens = Room<int32_t>(kRows);
  SampleArgs args;
  args.logits = Device(logits);
  args.how = Device(how);
  args.seen = Device<uint32_t>({0, 0b10, 0, 0, 0});
  args.tokens = tokens;
  args.workspace = Room<uint32_t>(kRows * kVocab);
  args.rows = kRows;
  args.vocab = args.ld = kVocab;
  ASSERT_EQ(api().sample(args, stream_), cudaSuccess);
  EXPECT_THAT(Host(tokens, kRows), ElementsAre(1, 2, 1, 1, -1));
  EXPECT_THAT(Host(args.seen, kRows), ElementsAre(0b10, 0b110, 0b10, 0b10, 0));

  // Without filters: each token as often as its probability says.
  int counts[kVocab] = {};
  constexpr int kDraws = 2000;
  SamplingRow one;
  one.temperature = 1;
  args.rows = 1;
  args.seen = nullptr;
  for (int draw = 0; draw < kDraws; ++draw) {
    one.index = draw;
    ASSERT_EQ(
        api().memcpy_async(const_cast<SamplingRow*>(args.how), &one, sizeof(one), cudaMemcpyHostToDevice, stream_),
        cudaSuccess);
    ASSERT_EQ(api().sample(args, stream_), cudaSuccess);
    ++counts[Host(tokens, 1)[0]];
  }
  const double total = std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0);
  for (int i = 0; i < kVocab; ++i) {
    const double p = std::exp(double{logits[i]}) / total;
    EXPECT_NEAR(counts[i], kDraws * p, 4 * std::sqrt(kDraws * p * (1 - p))) << i;
  }
}

}  // namespace
}  // namespace flashflow::cuda::testing
