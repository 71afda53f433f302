// Layers of int8 codes as a plan runs them, against the interpreter: the same bits of y, given the same bits of x.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/parser.h"
#include "gtest/gtest.h"
#include "runtime/api/compiled_graph.h"

namespace flashflow::runtime {
namespace {

using interpreter::Tensor;
using kernels::TensorView;

TensorView View(void* data, DType dtype, const std::vector<int64_t>& dims) {
  TensorView view{.data = data, .dtype = dtype, .rank = static_cast<int>(dims.size())};
  std::copy(dims.begin(), dims.end(), view.dims.begin());
  return view;
}

Tensor Floats(std::vector<int64_t> shape, const std::vector<float>& values) {
  return Tensor::Floats(std::move(shape), std::vector<double>(values.begin(), values.end()));
}

// A layer of codes, and a lookup in the same codes as a tied model has it.
class Layer {
 public:
  Layer(int64_t n, int64_t k, std::string_view clip, const std::function<int8_t()>& code)
      : n_(n), k_(k), codes_(static_cast<size_t>(n * k)), scales_(static_cast<size_t>(n)), bias_(scales_.size()) {
    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(0, 1);
    for (int8_t& c : codes_) c = code();
    for (float& s : scales_) s = uniform(random) / 100;
    for (float& b : bias_) b = uniform(random) - 0.5f;
    auto graph = ir::Parse(absl::Substitute(R"ir(ffir 1
graph @layer {
  symbol T [1, 64]
  input %0 "x" : f32[T, $1]
  input %1 "ids" : i32[T]
  weight %2 "codes" : i8[$0, $1]
  weight %3 "scales" : f32[$0]
  weight %4 "bias" : f32[$0]
  %5 = fused_linear(%0, %2, %4, _, _, _, %3) {clip = $2} : f32[T, $0]
  %6 = embedding(%2, %1, %3) {dtype = f32} : f32[T, $1]
  output "y" %5
  output "rows" %6
}
)ir",
                                            n, k, clip));
    EXPECT_TRUE(graph.ok()) << graph.status();
    graph_ = *std::move(graph);
  }

  int64_t k() const { return k_; }

  void ExpectTheInterpretersBits(std::vector<float> x) {
    const int64_t m = static_cast<int64_t>(x.size()) / k_;
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < m; ++i) ids.push_back(static_cast<int32_t>(i * 5 % n_));
    std::vector<float> y(static_cast<size_t>(m * n_)), rows(x.size());
    Run(m, &x, &ids, &y, &rows);

    interpreter::Values inputs;
    inputs.emplace("x", Floats({m, k_}, x));
    inputs.emplace("ids", Tensor::Ints({m}, {ids.begin(), ids.end()}, DType::kI32));
    absl::flat_hash_map<std::string, Tensor> weights;
    weights.emplace("codes", Tensor::Ints({n_, k_}, {codes_.begin(), codes_.end()}, DType::kI8));
    weights.emplace("scales", Floats({n_}, scales_));
    weights.emplace("bias", Floats({n_}, bias_));
    const auto want = interpreter::Interpret(*graph_, std::move(inputs), interpreter::WeightsFrom(std::move(weights)),
                                             interpreter::Mode::kTyped);
    ASSERT_TRUE(want.ok()) << want.status();
    ExpectEqual(y, std::get<Tensor>(want->at("y")).floats);
    ExpectEqual(rows, std::get<Tensor>(want->at("rows")).floats);
  }

 private:
  void Run(int64_t m, std::vector<float>* x, std::vector<int32_t>* ids, std::vector<float>* y,
           std::vector<float>* rows) {
    auto compiled = CompiledGraph::Compile(*graph_);
    ASSERT_TRUE(compiled.ok()) << compiled.status();
    ASSERT_EQ((*compiled)->plan().steps[0].tactics[0].id, "cpu.fused_linear.int8");
    std::vector<LoadedWeight> loaded;
    for (const plan::Weight& weight : (*compiled)->plan().weights) {
      void* data = weight.dtype == DType::kI8      ? static_cast<void*>(codes_.data())
                   : weight.sources[0] == "scales" ? scales_.data()
                                                   : bias_.data();
      auto packed = PackWeight(View(data, weight.dtype, weight.shape), weight.layout);
      ASSERT_TRUE(packed.ok()) << packed.status();
      loaded.push_back(*std::move(packed));
    }
    std::vector<const LoadedWeight*> weights;
    for (const LoadedWeight& weight : loaded) weights.push_back(&weight);
    const absl::Status status =
        (*compiled)->Run({m}, {View(x->data(), DType::kF32, {m, k_}), View(ids->data(), DType::kI32, {m})}, weights,
                         {View(y->data(), DType::kF32, {m, n_}), View(rows->data(), DType::kF32, {m, k_})});
    ASSERT_TRUE(status.ok()) << status;
  }

  static void ExpectEqual(const std::vector<float>& got, const std::vector<double>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) {
      if (std::isnan(want[i])) {
        ASSERT_TRUE(std::isnan(got[i])) << "element " << i << " is " << got[i];
      } else {
        ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(static_cast<float>(want[i])))
            << "element " << i << " is " << got[i] << ", expected " << want[i];
      }
    }
  }

  int64_t n_, k_;
  std::vector<int8_t> codes_;
  std::vector<float> scales_, bias_;
  std::unique_ptr<ir::Graph> graph_;
};

std::function<int8_t()> AnyCode() {
  return [random = std::mt19937(1)]() mutable { return static_cast<int8_t>(static_cast<int>(random() % 255) - 127); };
}

// Rows of the sizes that models have, large and small.
std::vector<float> AnyRows(int64_t m, int64_t k) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x;
  for (int64_t i = 0; i < m * k; ++i) x.push_back(std::ldexp(normal(random), static_cast<int>(i / k) - 8));
  return x;
}

TEST(Int8LayerTest, AnySize) {
  for (const auto& [n, k] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {17, 65}, {33, 100}, {96, 64}, {50, 777}}) {
    for (const char* clip : {"inf", "1.5"}) {
      Layer layer(n, k, clip, AnyCode());
      for (const int64_t m : {1, 5, 20, 50}) {
        SCOPED_TRACE(absl::StrCat(m, " rows, ", n, " x ", k, ", clip ", clip));
        layer.ExpectTheInterpretersBits(AnyRows(m, k));
      }
    }
  }
}

TEST(Int8LayerTest, TheLargestCodes) {
  for (const int8_t code : {int8_t{127}, int8_t{-127}}) {
    Layer layer(17, 16384, "inf", [code] { return code; });
    std::vector<float> x(static_cast<size_t>(3 * layer.k()), 1.0f);
    std::fill_n(x.begin(), layer.k(), -2.0f);
    layer.ExpectTheInterpretersBits(std::move(x));
  }
}

TEST(Int8LayerTest, TiesZerosAndWhatIsNotFinite) {
  Layer layer(20, 256, "inf", AnyCode());
  std::vector<float> x;
  for (int i = 0; i < 256; ++i) x.push_back(i == 0 ? 127.0f : static_cast<float>(i) / 2);  // ties at a scale of one
  x.resize(2 * 256, 0.0f);
  x.insert(x.end(), 256, 0x1p-101f);
  x.insert(x.end(), 256, 0x1p-100f);
  x.insert(x.end(), 256, std::numeric_limits<float>::denorm_min());
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    x.insert(x.end(), 256, 1.0f);
    x.back() = bad;
  }
  x.insert(x.end(), 256, std::numeric_limits<float>::max());
  layer.ExpectTheInterpretersBits(std::move(x));
}

}  // namespace
}  // namespace flashflow::runtime
