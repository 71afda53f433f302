#include "runtime/api/coded_weights.h"

#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/quantize.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/engine/convert.h"

namespace flashflow::runtime {
namespace {

// The weight whose codes or scales are named so; nullopt for another name.
std::optional<std::string_view> WeightOf(std::string_view name) {
  for (const std::string_view suffix : {plan::kCodesSuffix, plan::kScalesSuffix}) {
    if (absl::EndsWith(name, suffix)) return absl::StripSuffix(name, suffix);
  }
  return std::nullopt;
}

// The codes and scales of one weight at a time: the writer asks for both in turn.
class Coder {
 public:
  Coder(engine::WeightSource source, absl::flat_hash_map<std::string, bool> coded)
      : source_(std::move(source)), coded_(std::move(coded)) {}

  absl::StatusOr<engine::SourceTensor> Get(std::string_view name) {
    const std::optional<std::string_view> weight = WeightOf(name);
    const auto coded = weight.has_value() ? coded_.find(*weight) : coded_.end();
    if (coded == coded_.end()) return source_(name);
    if (current_ != *weight) {
      if (absl::Status status = Code(*weight, coded->second); !status.ok()) return status;
    }
    if (absl::EndsWith(name, plan::kScalesSuffix)) {
      return engine::SourceTensor{scales_.data(), DType::kF32, {static_cast<int64_t>(scales_.size())}};
    }
    return engine::SourceTensor{codes_.data(), DType::kI8, shape_};
  }

 private:
  absl::Status Code(std::string_view name, bool transposed) {
    current_.clear();
    const absl::StatusOr<engine::SourceTensor> tensor = source_(name);
    if (!tensor.ok()) return tensor.status();
    if (tensor->shape.size() != 2 || !IsFloat(tensor->dtype)) {
      return absl::InvalidArgumentError(absl::StrCat("weight \"", name, "\" is ", DTypeName(tensor->dtype), "[",
                                                     absl::StrJoin(tensor->shape, ", "),
                                                     "]; int8 codes are made of a matrix of floats"));
    }
    shape_ = tensor->shape;
    const auto count = static_cast<size_t>(shape_[0] * shape_[1]);
    std::vector<float> values(count);
    engine::ConvertFloats(tensor->data, tensor->dtype, values.data(), DType::kF32, static_cast<int64_t>(count));
    const int64_t rows = shape_[transposed ? 1 : 0];
    const int64_t k = shape_[transposed ? 0 : 1];
    if (transposed) {
      std::vector<float> turned(count);
      Transpose(values.data(), rows, k, turned.data());
      values = std::move(turned);
    }
    codes_.resize(count);
    scales_.resize(static_cast<size_t>(rows));
    constexpr float kNoClip = std::numeric_limits<float>::infinity();
    cpu::QuantizeRows(values.data(), rows, k, kNoClip, codes_.data(), scales_.data(), &pool_);
    for (size_t row = 0; row < scales_.size(); ++row) {
      if (!std::isfinite(scales_[row])) {
        return absl::InvalidArgumentError(absl::StrCat("weight \"", name, "\" has an element that is not finite, in ",
                                                       transposed ? "column " : "row ", row, ": it has no int8 codes"));
      }
    }
    if (transposed) {
      std::vector<int8_t> turned(count);
      Transpose(codes_.data(), k, rows, turned.data());
      codes_ = std::move(turned);
    }
    current_ = name;
    return absl::OkStatus();
  }

  // from[k, n] to to[n, k]
  template <typename T>
  void Transpose(const T* from, int64_t n, int64_t k, T* to) {
    cpu::PackTransposed(reinterpret_cast<const std::byte*>(from), n, k, sizeof(T), reinterpret_cast<std::byte*>(to),
                        &pool_);
  }

  const engine::WeightSource source_;
  const absl::flat_hash_map<std::string, bool> coded_;
  cpu::ThreadPool pool_;
  std::string current_;  // the weight that the rest is of; empty: none
  std::vector<int64_t> shape_;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
};

}  // namespace

absl::Status CodedWeights::Add(const plan::Plan& plan) {
  for (const plan::Weight& weight : plan.weights) {
    for (const std::string& source : weight.sources) {
      const bool codes = weight.dtype == DType::kI8 && absl::EndsWith(source, plan::kCodesSuffix);
      if (!codes) {
        plain_.insert(source);  // scales too: no weight has their names
        continue;
      }
      const std::string name(absl::StripSuffix(source, plan::kCodesSuffix));
      if (!coded_.try_emplace(name, weight.transposed).second && coded_[name] != weight.transposed) {
        return absl::InternalError(
            absl::StrCat("codes are wanted of both the rows and the columns of weight \"", name, "\""));
      }
    }
  }
  return absl::OkStatus();
}

std::vector<engine::WeightSpec> CodedWeights::Specs(const engine::WeightSpec& weight) const {
  const auto coded = coded_.find(weight.name);
  if (coded == coded_.end()) return {weight};
  std::vector<engine::WeightSpec> specs;
  if (plain_.contains(weight.name)) specs.push_back(weight);
  specs.push_back({absl::StrCat(weight.name, plan::kCodesSuffix), DType::kI8, weight.shape});
  specs.push_back({absl::StrCat(weight.name, plan::kScalesSuffix), DType::kF32, {weight.shape[coded->second ? 1 : 0]}});
  return specs;
}

engine::WeightSource CodedWeights::Source(const engine::WeightSource& source) const {
  return [coder = std::make_shared<Coder>(source, coded_)](std::string_view name) { return coder->Get(name); };
}

}  // namespace flashflow::runtime
