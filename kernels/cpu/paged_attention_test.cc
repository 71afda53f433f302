#include "kernels/cpu/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/kernel_testing.h"
#include "kernels/cpu/paged_cache_testing.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {
namespace {

constexpr const char* kTypeNames[] = {"f32", "bf16", "int8"};
constexpr CacheType kTypes[] = {CacheType::kF32, CacheType::kBF16, CacheType::kInt8};

struct Shape {
  CacheType type = CacheType::kF32;
  int64_t kv_heads = 2;
  int64_t group = 3;
  int64_t head_dim = 64;
  int64_t page_size = 16;
  int64_t window = 0;
  friend std::ostream& operator<<(std::ostream& out, const Shape& s) {
    return out << kTypeNames[static_cast<int>(s.type)] << ", kv_heads " << s.kv_heads << ", group " << s.group
               << ", head_dim " << s.head_dim << ", page_size " << s.page_size << ", window " << s.window;
  }
};

// A step whose rows' slots are all filled, and only they.
struct Problem {
  Problem(const Shape& shape, const std::vector<int32_t>& slots, const std::vector<int32_t>& new_tokens)
      : shape(shape),
        random(7),
        rows(slots, new_tokens, shape.page_size, &random),
        cache(shape.type, rows.pages, shape.kv_heads, shape.page_size, shape.head_dim),
        heads(shape.kv_heads * shape.group),
        scale(1.0f / std::sqrt(static_cast<float>(shape.head_dim))),
        q(static_cast<size_t>(rows.tokens() * heads * shape.head_dim)) {
    std::normal_distribution<float> normal;
    for (float& v : q) v = 2 * normal(random);
    std::vector<float> values(static_cast<size_t>(shape.head_dim));
    ForEachHead([&](int64_t page, bool v, int64_t head, int64_t slot) {
      for (float& value : values) value = normal(random);
      cache.Set(page, v, head, slot, values.data());
    });
  }

  // Calls f(page, whether v, head, slot in the page) for each key and value that is there.
  template <typename F>
  void ForEachHead(const F& f) const {
    for (int64_t r = 0; r < rows.view().rows(); ++r) {
      for (int64_t s = 0; s < rows.kv_len[r]; ++s) {
        for (int64_t h = 0; h < shape.kv_heads; ++h) {
          for (bool v : {false, true}) f(PageOf(r, s), v, h, s % shape.page_size);
        }
      }
    }
  }

  int64_t PageOf(int64_t row, int64_t slot) const {
    return rows.block_table[row * rows.pages_per_row + slot / shape.page_size];
  }

  float Element(int64_t row, int64_t slot, bool v, int64_t head, int64_t i) const {
    return cache.Get(PageOf(row, slot), v, head, slot % shape.page_size, i);
  }

  void Run(const PagedRows& view, const float* queries, float* out, ThreadPool* pool) const {
    PagedAttention(queries, heads * shape.head_dim, heads, view, cache.layer(), scale, shape.window, out, pool);
  }

  // Checks every output against doubles. A score is off by at most its d + 1 roundings, weights by twice that plus
  // those of exp and the sums, in relation to the largest |v|.
  void ExpectClose(const float* out) const {
    const double u = std::ldexp(1.0, -24);
    const int64_t dim = shape.head_dim;
    for (int64_t r = 0; r < rows.view().rows(); ++r) {
      for (int64_t t = rows.row_start[r]; t < rows.row_start[r + 1]; ++t) {
        const int64_t last = rows.kv_len[r] - (rows.row_start[r + 1] - t);
        const int64_t first = shape.window > 0 ? std::max<int64_t>(last + 1 - shape.window, 0) : 0;
        for (int64_t h = 0; h < heads; ++h) {
          const float* query = &q[(t * heads + h) * dim];
          std::vector<double> weights;
          double largest = -INFINITY, size = 0;
          for (int64_t s = first; s <= last; ++s) {
            double dot = 0, terms = 0;
            for (int64_t i = 0; i < dim; ++i) {
              const double term = double{query[i]} * Element(r, s, false, h / shape.group, i);
              dot += term;
              terms += std::abs(term);
            }
            weights.push_back(dot * scale);
            largest = std::max(largest, dot * scale);
            size = std::max(size, terms * scale);
          }
          double sum = 0;
          for (double& w : weights) sum += w = std::exp(w - largest);
          for (int64_t i = 0; i < dim; ++i) {
            double expected = 0, largest_v = 0;
            for (int64_t s = first; s <= last; ++s) {
              const double v = Element(r, s, true, h / shape.group, i);
              expected += weights[s - first] / sum * v;
              largest_v = std::max(largest_v, std::abs(v));
            }
            const double roundings = 2 * (2.0 * dim + 2) * size + 2.0 * static_cast<double>(weights.size()) + 16;
            ASSERT_NEAR(out[(t * heads + h) * dim + i], expected, roundings * u * largest_v)
                << shape << ", row " << r << ", token " << t << ", head " << h;
          }
        }
      }
    }
  }

  Shape shape;
  std::mt19937 random;
  TestRows rows;
  TestCache cache;
  int64_t heads;
  float scale;
  Guarded<float> q;
};

void ExpectClose(const Problem& problem) {
  ThreadPool pool(2);
  ForEachTarget([&] {
    Guarded<float> out(problem.q.size());
    problem.Run(problem.rows.view(), problem.q.data(), out.data(), &pool);
    problem.ExpectClose(out.data());
  });
}

// Decodes around the ends of chunks and pages, a prompt, a waiting row, the middle of a prompt.
const std::vector<int32_t> kSlots = {1, 16, 63, 64, 65, 200, 70, 40, 150};
const std::vector<int32_t> kNewTokens = {1, 1, 1, 1, 1, 1, 70, 0, 23};

TEST(PagedAttentionTest, HeadDims) {
  for (CacheType type : kTypes) {
    for (int64_t head_dim : {1, 3, 5, 8, 16, 17, 64, 80, 100, 128, 255, 256}) {
      ExpectClose(Problem({.type = type, .kv_heads = 1, .group = 2, .head_dim = head_dim}, kSlots, kNewTokens));
    }
  }
}

TEST(PagedAttentionTest, PageSizes) {
  for (CacheType type : kTypes) {
    for (int64_t page_size : {1, 5, 16, 24, 64, 256}) {
      if (type == CacheType::kInt8 && page_size % 4 != 0) continue;
      ExpectClose(Problem({.type = type, .head_dim = 32, .page_size = page_size}, kSlots, kNewTokens));
    }
  }
}

TEST(PagedAttentionTest, GroupsUpToMoreThanABlockOfQueries) {
  for (int64_t group : {1, 2, 4, 7, 8, 47, 48, 49, 71}) {
    ExpectClose(Problem({.kv_heads = 2, .group = group, .head_dim = 16}, {5, 130, 33}, {1, 1, 10}));
  }
}

TEST(PagedAttentionTest, Windows) {
  for (int64_t window : {1, 2, 15, 63, 64, 65, 100, 1000}) {
    ExpectClose(Problem({.head_dim = 16, .window = window}, kSlots, kNewTokens));
  }
}

TEST(PagedAttentionTest, LargeScoresDoNotOverflow) {
  Problem problem({.head_dim = 16}, {100, 20}, {5, 20});
  problem.scale = 30.0f;
  ExpectClose(problem);
}

// Codes times scales in f32 are what is read: as from a cache of f32 that holds them.
TEST(PagedAttentionTest, CodesGiveTheBitsOfWhatTheyStandFor) {
  for (int64_t head_dim : {5, 64}) {
    Problem coded({.type = CacheType::kInt8, .head_dim = head_dim}, kSlots, kNewTokens);
    Problem plain({.head_dim = head_dim}, kSlots, kNewTokens);
    std::vector<float> values(static_cast<size_t>(head_dim));
    coded.ForEachHead([&](int64_t page, bool v, int64_t head, int64_t slot) {
      for (int64_t i = 0; i < head_dim; ++i) values[i] = coded.cache.Get(page, v, head, slot, i);
      plain.cache.Set(page, v, head, slot, values.data());
    });
    ThreadPool pool(2);
    ForEachTarget([&] {
      Guarded<float> of_coded(coded.q.size()), of_plain(coded.q.size());
      coded.Run(coded.rows.view(), coded.q.data(), of_coded.data(), &pool);
      plain.Run(plain.rows.view(), coded.q.data(), of_plain.data(), &pool);
      EXPECT_TRUE(SameBits(of_coded, of_plain)) << "head_dim " << head_dim;
    });
  }
}

// A token's bits: in a prompt at once, in chunks, token by token, on its own among no other rows, on any threads.
TEST(PagedAttentionTest, TokensDoNotDependOnOtherRowsOnChunksOrOnThreads) {
  for (int64_t window : {0, 70}) {
    const Problem problem({.kv_heads = 3, .group = 3, .head_dim = 64, .window = window}, {150, 40, 190}, {150, 1, 130});
    const int64_t width = problem.heads * problem.shape.head_dim;
    ForEachTarget([&] {
      Guarded<float> whole(problem.q.size());
      ThreadPool alone(1);
      problem.Run(problem.rows.view(), problem.q.data(), whole.data(), &alone);
      for (int threads : kThreadCounts) {
        ThreadPool pool(threads);
        Guarded<float> out(problem.q.size());
        problem.Run(problem.rows.view(), problem.q.data(), out.data(), &pool);
        EXPECT_TRUE(SameBits(out, whole)) << threads << " threads";
      }
      for (int32_t chunk : {1, 7, 64, 100}) {
        Guarded<float> out(problem.q.size());
        for (int64_t r = 0; r < 3; ++r) {
          const int32_t begin = problem.rows.row_start[r];
          const int32_t end = problem.rows.row_start[r + 1];
          for (int32_t t = begin; t < end; t += chunk) {
            const int32_t tokens = std::min(chunk, end - t);
            const std::vector<int32_t> row_start = {0, tokens};
            const std::vector<int32_t> kv_len = {problem.rows.kv_len[r] - (end - t - tokens)};
            const PagedRows row = {row_start,
                                   kv_len,
                                   {problem.rows.view().pages(r), static_cast<size_t>(problem.rows.pages_per_row)},
                                   problem.rows.pages_per_row};
            problem.Run(row, problem.q.data() + t * width, out.data() + t * width, &alone);
          }
        }
        EXPECT_TRUE(SameBits(out, whole)) << "chunks of " << chunk;
      }
    });
  }
}

}  // namespace
}  // namespace flashflow::cpu
