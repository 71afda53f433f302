// flashflow._core: the C++ library as Python sees it. The only file that includes pybind11.
//
// Functions that take long release the GIL. A Status that is not OK becomes the exception that flashflow.errors makes
// of its code. NumPy is imported by the functions that need it only.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/log_severity.h"
#include "absl/container/flat_hash_map.h"
#include "absl/log/globals.h"
#include "absl/log/initialize.h"
#include "absl/log/log_entry.h"
#include "absl/log/log_sink.h"
#include "absl/log/log_sink_registry.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "compiler/driver/compile.h"
#include "compiler/frontend/import_graph.h"
#include "compiler/interpreter/interpreter.h"
#include "compiler/ir/parser.h"
#include "compiler/ir/printer.h"
#include "compiler/ir/verifier.h"
#include "compiler/passes/options.h"
#include "compiler/passes/pass_manager.h"
#include "compiler/passes/pipeline.h"
#include "compiler/plan/plan.h"
#include "pybind11/numpy.h"
#include "pybind11/pybind11.h"
#include "pybind11/stl.h"
#include "runtime/api/compiled_graph.h"
#include "runtime/api/engine.h"
#include "runtime/api/engine_builder.h"
#include "runtime/cpu/cpu_device.h"

namespace flashflow {
namespace {

namespace py = pybind11;
using runtime::Engine;
using runtime::EngineInfo;
using runtime::SamplingParams;
using runtime::TokenEvent;

// --- errors ------------------------------------------------------------------

[[noreturn]] void Raise(const absl::Status& status, std::string_view op = "") {
  const py::object make_error = py::module_::import("flashflow.errors").attr("make_error");
  const py::object error = make_error(absl::StatusCodeToString(status.code()), std::string(status.message()), op);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  throw py::error_already_set();
}

void Check(const absl::Status& status, std::string_view op = "") {
  if (!status.ok()) Raise(status, op);
}

template <typename T>
T Check(absl::StatusOr<T> value, std::string_view op = "") {
  if (!value.ok()) Raise(value.status(), op);
  return *std::move(value);
}

// Runs a function of the C++ library without the GIL.
template <typename Function>
auto Released(const Function& function) {
  const py::gil_scoped_release release;
  return function();
}

// Runs Python code on behalf of the C++ library. An exception becomes a status, and is raised again by TakePending.
class Callback {
 public:
  template <typename Function>
  absl::Status Run(const Function& function) {
    const py::gil_scoped_acquire acquire;
    try {
      function();
      return absl::OkStatus();
    } catch (py::error_already_set& error) {
      pending_.emplace(std::move(error));
      return absl::CancelledError("a Python callback raised an exception");
    }
  }
  void RaisePending() {
    if (pending_) throw std::move(*pending_);
  }

 private:
  std::optional<py::error_already_set> pending_;
};

// --- arrays ------------------------------------------------------------------

// The element type of an array; uint16 stands for the bits of bfloat16. nullopt if FlashFlow has none for it.
std::optional<DType> DTypeOf(const py::array& array) {
  const py::dtype dtype = array.dtype();
  if (dtype.byteorder() == '>') return std::nullopt;
  switch (dtype.kind()) {
    case 'f':
      return dtype.itemsize() == 4 ? std::optional(DType::kF32)
                                   : (dtype.itemsize() == 2 ? std::optional(DType::kF16) : std::nullopt);
    case 'u':
      return dtype.itemsize() == 2 ? std::optional(DType::kBF16) : std::nullopt;
    case 'i':
      switch (dtype.itemsize()) {
        case 1:
          return DType::kI8;
        case 4:
          return DType::kI32;
        case 8:
          return DType::kI64;
        default:
          return std::nullopt;
      }
    case 'b':
      return DType::kBool;
    default:
      return std::nullopt;
  }
}

std::vector<int64_t> ShapeOf(const py::array& array) { return {array.shape(), array.shape() + array.ndim()}; }

// A dense array of a known dtype, or the error that says what is wrong with it.
absl::StatusOr<py::array> CheckedArray(const py::handle& value, std::string_view name) {
  if (!py::isinstance<py::array>(value)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" is a ",
                                                   std::string(py::str(py::type::of(value).attr("__name__"))),
                                                   "; expected a NumPy array"));
  }
  auto array = py::reinterpret_borrow<py::array>(value);
  if (!DTypeOf(array)) {
    return absl::InvalidArgumentError(
        absl::StrCat("array \"", name, "\" has the dtype ", std::string(py::str(array.dtype())),
                     "; expected float32, float16, uint16 (the bits of bfloat16), int8, int32, int64 or bool"));
  }
  if ((array.flags() & py::array::c_style) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("array \"", name, "\" is not contiguous; pass numpy.ascontiguousarray of it"));
  }
  return array;
}

template <typename T, typename To>
std::vector<To> Elements(const py::array& array) {
  const auto* data = static_cast<const T*>(array.data());
  return std::vector<To>(data, data + array.size());
}

interpreter::Tensor ToTensor(const py::handle& value, std::string_view name) {
  // The oracle's own precision, beyond the dtypes of a model.
  if (py::isinstance<py::array_t<double>>(value)) {
    const auto doubles = py::array_t<double, py::array::c_style>::ensure(value);
    return interpreter::Tensor::Floats(ShapeOf(doubles), Elements<double, double>(doubles));
  }
  const py::array array = Check(CheckedArray(value, name));
  const std::vector<int64_t> shape = ShapeOf(array);
  const DType dtype = *DTypeOf(array);
  switch (dtype) {
    case DType::kF32:
      return interpreter::Tensor::Floats(shape, Elements<float, double>(array));
    case DType::kF16:
      return interpreter::Tensor::Floats(
          shape, Elements<double, double>(py::array_t<double, py::array::c_style>::ensure(array)), dtype);
    case DType::kBF16: {
      std::vector<double> values;
      for (uint16_t bits : Elements<uint16_t, uint16_t>(array)) {
        values.push_back(std::bit_cast<float>(uint32_t{bits} << 16));
      }
      return interpreter::Tensor::Floats(shape, std::move(values), dtype);
    }
    case DType::kI8:
      return interpreter::Tensor::Ints(shape, Elements<int8_t, int64_t>(array), dtype);
    case DType::kI32:
      return interpreter::Tensor::Ints(shape, Elements<int32_t, int64_t>(array), dtype);
    case DType::kI64:
      return interpreter::Tensor::Ints(shape, Elements<int64_t, int64_t>(array), dtype);
    case DType::kBool:
      return interpreter::Tensor::Ints(shape, Elements<bool, int64_t>(array), dtype);
  }
  return {};
}

template <typename T, typename From>
py::array ToArray(const std::vector<int64_t>& shape, const std::vector<From>& values) {
  py::array_t<T> array(shape);
  std::transform(values.begin(), values.end(), array.mutable_data(), [](From value) { return static_cast<T>(value); });
  return array;
}

// Typed floats fit float32 whatever their dtype; the wide mode's are float64.
py::array FromTensor(const interpreter::Tensor& tensor, interpreter::Mode mode) {
  switch (tensor.dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return mode == interpreter::Mode::kWide ? ToArray<double>(tensor.shape, tensor.floats)
                                              : ToArray<float>(tensor.shape, tensor.floats);
    case DType::kI8:
      return ToArray<int8_t>(tensor.shape, tensor.ints);
    case DType::kI32:
      return ToArray<int32_t>(tensor.shape, tensor.ints);
    case DType::kI64:
      return ToArray<int64_t>(tensor.shape, tensor.ints);
    case DType::kBool:
      return ToArray<bool>(tensor.shape, tensor.ints);
  }
  return {};
}

// --- the compiler ------------------------------------------------------------

passes::CompileOptions ToOptions(const py::dict& dict) {
  passes::CompileOptions options;
  for (const auto& [key, value] : dict) {
    Attr attr;
    if (py::isinstance<py::bool_>(value)) {
      attr = value.cast<bool>();
    } else if (py::isinstance<py::int_>(value)) {
      attr = value.cast<int64_t>();
    } else if (py::isinstance<py::float_>(value)) {
      attr = value.cast<double>();
    } else {
      attr = std::string(py::str(value));
    }
    const std::string name = py::str(key);
    Check(passes::SetOption(name, attr, &options), name);
  }
  return options;
}

std::string ImportGraph(const std::string& graph_json) {
  return Check(Released([&]() -> absl::StatusOr<std::string> {
    const auto graph = frontend::ImportGraph(graph_json);
    if (!graph.ok()) return graph.status();
    return ir::Print(**graph);
  }));
}

std::string ParseIr(const std::string& text) { return ir::Print(*Check(ir::Parse(text))); }

void Verify(const std::string& text) { Check(ir::Verify(*Check(ir::Parse(text)))); }

std::vector<std::string> ListPasses() {
  std::vector<std::string> names;
  for (const auto& pass : passes::AllPasses()) names.emplace_back(pass->name());
  return names;
}

std::string RunPasses(const std::string& text, const std::optional<std::vector<std::string>>& names,
                      const py::dict& dict) {
  const passes::CompileOptions options = ToOptions(dict);
  return Check(Released([&]() -> absl::StatusOr<std::string> {
    auto graph = ir::Parse(text);
    if (!graph.ok()) return graph.status();
    auto list = names ? passes::MakePasses(*names) : passes::StepPipeline();
    if (!list.ok()) return list.status();
    const auto records = passes::PassManager(*std::move(list)).Run(graph->get(), options);
    if (!records.ok()) return records.status();
    return ir::Print(**graph);
  }));
}

std::string CompilePlan(const std::string& text, const py::dict& dict) {
  const passes::CompileOptions options = ToOptions(dict);
  return Check(Released([&]() -> absl::StatusOr<std::string> {
    const auto graph = ir::Parse(text);
    if (!graph.ok()) return graph.status();
    const auto compiled = driver::Compile(**graph, options);
    if (!compiled.ok()) return compiled.status();
    return plan::ToJson(compiled->plan);
  }));
}

py::dict Interpret(const std::string& text, const py::dict& inputs, const py::dict& weights,
                   const std::string& mode_name) {
  if (mode_name != "typed" && mode_name != "wide") {
    Raise(absl::InvalidArgumentError(absl::StrCat("mode is \"", mode_name, "\"; expected \"typed\" or \"wide\"")),
          "mode");
  }
  const auto mode = mode_name == "wide" ? interpreter::Mode::kWide : interpreter::Mode::kTyped;
  const auto graph = Check(ir::Parse(text));
  interpreter::Values values;
  for (const auto& [key, value] : inputs) {
    const std::string name = py::str(key);
    values.emplace(name, ToTensor(value, name));
  }
  absl::flat_hash_map<std::string, interpreter::Tensor> tensors;
  for (const auto& [key, value] : weights) {
    const std::string name = py::str(key);
    tensors.emplace(name, ToTensor(value, name));
  }
  const interpreter::Values outputs = Check(Released([&] {
    return interpreter::Interpret(*graph, std::move(values), interpreter::WeightsFrom(std::move(tensors)), mode);
  }));
  py::dict arrays;
  for (const auto& [name, value] : outputs) {
    if (const auto* tensor = std::get_if<interpreter::Tensor>(&value))
      arrays[py::str(name)] = FromTensor(*tensor, mode);
  }
  return arrays;
}

void BuildEngine(const std::string& path, const std::string& graph_json, const py::object& weights,
                 const std::string& config_json, const py::bytes& tokenizer_json, const py::dict& options_dict,
                 const py::object& progress) {
  const passes::CompileOptions options = ToOptions(options_dict);
  const runtime::ModelFiles files = {config_json, tokenizer_json};
  Callback callback;
  py::array current;  // keeps alive what the writer is reading
  const auto source = [&](std::string_view name) -> absl::StatusOr<engine::SourceTensor> {
    engine::SourceTensor tensor;
    absl::Status status;
    const absl::Status called = callback.Run([&] {
      const py::str key{std::string(name)};
      if (!weights.contains(key)) {
        status = absl::NotFoundError(absl::StrCat("the model has no weight \"", name, "\", which its graph uses"));
        return;
      }
      absl::StatusOr<py::array> array = CheckedArray(weights[key], name);
      if (!array.ok()) {
        status = array.status();
        return;
      }
      current = *std::move(array);
      tensor = {current.data(), *DTypeOf(current), ShapeOf(current)};
    });
    if (!called.ok()) return called;
    if (!status.ok()) return status;
    return tensor;
  };
  engine::WriteProgress report;
  if (!progress.is_none()) {
    report = [&](int64_t done, int64_t total) { return callback.Run([&] { progress(done, total); }); };
  }
  const absl::Status status = Released([&]() -> absl::Status {
    const auto graph = frontend::ImportGraph(graph_json);
    if (!graph.ok()) return graph.status();
    return runtime::BuildEngine(path, **graph, files, options, source, report);
  });
  callback.RaisePending();
  Check(status, path);
}

// --- compiled graphs ---------------------------------------------------------

using runtime::CompiledGraph;

py::dtype NumpyDType(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return py::dtype::of<float>();
    case DType::kF16:
      return py::dtype("float16");
    case DType::kBF16:
      return py::dtype::of<uint16_t>();
    case DType::kI8:
      return py::dtype::of<int8_t>();
    case DType::kI32:
      return py::dtype::of<int32_t>();
    case DType::kI64:
      return py::dtype::of<int64_t>();
    case DType::kBool:
      return py::dtype::of<bool>();
  }
  return {};
}

// The array's memory: kernels write outputs only, whatever the pointer allows.
kernels::TensorView ViewOf(const py::handle& value, std::string_view name) {
  const py::array array = Check(CheckedArray(value, name));
  if (array.ndim() > kernels::kMaxRank) {
    Raise(absl::InvalidArgumentError(absl::StrCat("\"", name, "\" has ", array.ndim(), " dimensions; at most ",
                                                  kernels::kMaxRank, " are possible")));
  }
  kernels::TensorView view{
      .data = const_cast<void*>(array.data()), .dtype = *DTypeOf(array), .rank = static_cast<int>(array.ndim())};
  std::copy_n(array.shape(), array.ndim(), view.dims.begin());
  return view;
}

// A weight in a plan's layout, and the array that it may lie in.
struct PackedWeight {
  runtime::LoadedWeight loaded;
  std::string layout;
  bool transposed = false;
  py::object array;
};

std::unique_ptr<PackedWeight> PackWeight(const py::object& array, const std::string& layout, bool transposed) {
  const kernels::TensorView view = ViewOf(array, "weight");
  auto weight = std::make_unique<PackedWeight>();
  weight->loaded = Check(Released([&] { return runtime::PackWeight(view, layout, transposed); }), layout);
  weight->layout = layout;
  weight->transposed = transposed;
  if (weight->loaded.buffer == nullptr) weight->array = array;
  return weight;
}

void CheckGraph(const std::string& graph_json, const std::string& device) {
  Check(Released([&]() -> absl::Status {
    const auto graph = frontend::ImportGraph(graph_json);
    return graph.ok() ? runtime::CheckGraph(**graph, device) : graph.status();
  }));
}

std::unique_ptr<CompiledGraph> CompileGraph(const std::string& graph_json, const std::string& device) {
  return Check(Released([&]() -> absl::StatusOr<std::unique_ptr<CompiledGraph>> {
    const auto graph = frontend::ImportGraph(graph_json);
    if (!graph.ok()) return graph.status();
    return CompiledGraph::Compile(**graph, device);
  }));
}

std::vector<std::string> SymbolNames(const CompiledGraph& graph) {
  std::vector<std::string> names;
  for (const auto& [name, range] : graph.plan().symbols) names.push_back(name);
  return names;
}

// (name, dtype, dims) of each tensor in a list of the plan's.
py::list Signature(const CompiledGraph& graph, const std::vector<int32_t>& tensors) {
  py::list signature;
  for (int32_t index : tensors) {
    const plan::Tensor& tensor = graph.plan().tensors[static_cast<size_t>(index)];
    py::list dims;
    for (const DimExpr& dim : tensor.shape) dims.append(dim.ToString());
    signature.append(py::make_tuple(tensor.name, std::string(DTypeName(tensor.dtype)), dims));
  }
  return signature;
}

py::list WeightList(const CompiledGraph& graph) {
  py::list list;
  for (const plan::Weight& weight : graph.plan().weights) {
    list.append(py::make_tuple(weight.sources, std::string(DTypeName(weight.dtype)), weight.shape, weight.layout,
                               weight.transposed));
  }
  return list;
}

py::list RunGraph(CompiledGraph& graph, const std::vector<int64_t>& symbols, const py::list& inputs,
                  const std::vector<const PackedWeight*>& weights) {
  std::vector<kernels::TensorView> input_views, output_views;
  for (const py::handle& input : inputs) input_views.push_back(ViewOf(input, "input"));
  std::vector<const runtime::LoadedWeight*> loaded;
  const std::vector<plan::Weight>& wanted = graph.plan().weights;
  for (const PackedWeight* weight : weights) {
    if (weight == nullptr) Raise(absl::InvalidArgumentError("a weight is None"));
    if (const size_t i = loaded.size(); i < wanted.size()) {
      if (weight->layout != wanted[i].layout || weight->transposed != wanted[i].transposed) {
        const auto text = [](bool transposed) { return transposed ? ", transposed" : ""; };
        Raise(absl::InvalidArgumentError(absl::StrCat("weight ", i, " has the layout ", weight->layout,
                                                      text(weight->transposed), ", expected ", wanted[i].layout,
                                                      text(wanted[i].transposed))));
      }
    }
    loaded.push_back(&weight->loaded);
  }
  const std::vector<std::vector<int64_t>> dims = Check(graph.OutputDims(symbols));
  py::list outputs;
  for (size_t i = 0; i < dims.size(); ++i) {
    const plan::Tensor& tensor = graph.plan().tensors[static_cast<size_t>(graph.plan().outputs[i])];
    outputs.append(py::array(NumpyDType(tensor.dtype), dims[i]));
    output_views.push_back(ViewOf(outputs[i], "output"));
    output_views.back().dtype = tensor.dtype;
  }
  Check(Released([&] { return graph.Run(symbols, input_views, loaded, output_views); }));
  return outputs;
}

// A dense tensor in a device's memory: its address, its dtype's name, its dims. The caller vouches for the address.
using DeviceTensor = std::tuple<uintptr_t, std::string, std::vector<int64_t>>;

kernels::TensorView ViewOf(const DeviceTensor& tensor) {
  const auto& [address, dtype_name, dims] = tensor;
  const std::optional<DType> dtype = ParseDType(dtype_name);
  if (!dtype.has_value()) Raise(absl::InvalidArgumentError(absl::StrCat("no dtype is named \"", dtype_name, "\"")));
  if (dims.size() > kernels::kMaxRank) {
    Raise(absl::InvalidArgumentError(
        absl::StrCat("a tensor has ", dims.size(), " dimensions; at most ", kernels::kMaxRank, " are possible")));
  }
  kernels::TensorView view{
      .data = reinterpret_cast<void*>(address), .dtype = *dtype, .rank = static_cast<int>(dims.size())};
  std::copy(dims.begin(), dims.end(), view.dims.begin());
  return view;
}

void LaunchGraph(CompiledGraph& graph, const std::vector<int64_t>& symbols, const std::vector<DeviceTensor>& inputs,
                 const std::vector<DeviceTensor>& weights, const std::vector<DeviceTensor>& outputs,
                 const std::pair<uintptr_t, int64_t>& arena, uintptr_t stream) {
  const auto views = [](const std::vector<DeviceTensor>& tensors) {
    std::vector<kernels::TensorView> list;
    for (const DeviceTensor& tensor : tensors) list.push_back(ViewOf(tensor));
    return list;
  };
  std::vector<runtime::LoadedWeight> loaded(weights.size());
  std::vector<const runtime::LoadedWeight*> pointers;
  for (size_t i = 0; i < weights.size(); ++i) {
    loaded[i].view = ViewOf(weights[i]);
    loaded[i].bytes = loaded[i].view.NumElements() * DTypeBytes(loaded[i].view.dtype);
    pointers.push_back(&loaded[i]);
  }
  const std::vector<kernels::TensorView> input_views = views(inputs), output_views = views(outputs);
  const runtime::CallersResources callers = {.arena = reinterpret_cast<void*>(arena.first),
                                             .arena_bytes = arena.second,
                                             .launch_handle = reinterpret_cast<void*>(stream)};
  Check(Released([&] { return graph.Run(symbols, input_views, pointers, output_views, &callers); }));
}

// --- the engine --------------------------------------------------------------

std::vector<int32_t> ToTokens(const std::vector<int64_t>& ids) {
  std::vector<int32_t> tokens;
  tokens.reserve(ids.size());
  for (int64_t id : ids) {
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
      Raise(absl::InvalidArgumentError(absl::StrCat("token ", id, " is no token id")));
    }
    tokens.push_back(static_cast<int32_t>(id));
  }
  return tokens;
}

std::unique_ptr<Engine> OpenEngine(const std::string& path, const std::string& device, int threads, int max_batch,
                                   int64_t kv_cache_bytes, const std::string& tuning, bool batch_invariant) {
  return Check(Released([&] {
                 return Engine::Open(path, {.device = device,
                                            .threads = threads,
                                            .max_batch = max_batch,
                                            .batch_invariant = batch_invariant,
                                            .kv_cache_bytes = kv_cache_bytes,
                                            .tuning = tuning});
               }),
               path);
}

py::dict Info(const Engine& engine) {
  const EngineInfo& info = engine.info();
  py::dict dict;
  dict["path"] = info.path;
  dict["name"] = info.name;
  dict["architecture"] = info.architecture;
  dict["producer"] = info.producer;
  dict["dtype"] = info.dtype;
  dict["kv_dtype"] = info.kv_dtype;
  dict["device"] = info.device;
  dict["device_description"] = info.device_description;
  dict["plan"] = info.plan_was_stored ? "stored" : "compiled";
  dict["tuning"] = info.tuning;
  dict["tuned_configs"] = info.tuned_configs;
  dict["threads"] = info.threads;
  dict["max_batch"] = info.max_batch;
  dict["context_length"] = info.context_length;
  dict["max_tokens"] = info.max_tokens;
  dict["vocab_size"] = info.vocab_size;
  dict["eos_token_ids"] = info.eos_token_ids;
  dict["page_size"] = info.page_size;
  dict["kv_cache_pages"] = info.kv_cache_pages;
  dict["kv_cache_bytes"] = info.kv_cache_bytes;
  dict["arena_bytes"] = info.arena_bytes;
  dict["weight_bytes"] = info.weight_bytes;
  dict["weight_bytes_per_token"] = info.weight_bytes_per_token;
  dict["config_json"] = std::string(engine.config_json());
  dict["tokenizer_json"] = py::bytes(engine.tokenizer_json());
  return dict;
}

int64_t Submit(Engine& engine, const std::vector<int64_t>& ids, const SamplingParams& params) {
  const std::vector<int32_t> tokens = ToTokens(ids);
  return Check(Released([&] { return engine.Submit(tokens, params); }));
}

std::vector<TokenEvent> Step(Engine& engine) {
  return Check(Released([&] { return engine.Step(); }));
}

py::array_t<float> Forward(Engine& engine, const std::vector<int64_t>& ids) {
  const std::vector<int32_t> tokens = ToTokens(ids);
  // The engine refuses sizes that it cannot take; before that, nothing large is allocated.
  const auto rows = static_cast<int64_t>(tokens.size());
  py::array_t<float> logits({rows <= engine.info().context_length ? rows : 0, engine.info().vocab_size});
  const auto span = absl::MakeSpan(logits.mutable_data(), static_cast<size_t>(logits.size()));
  Check(Released([&] { return engine.Forward(tokens, span); }));
  return logits;
}

py::dict Roofline(Engine& engine, const std::string& device, int64_t tokens, int64_t context, bool measure,
                  bool measure_again, const std::string& cache_folder) {
  const runtime::StepRoofline roofline = Check(Released([&] {
    return engine.Roofline({.device = device,
                            .size = {.tokens = tokens, .context = context},
                            .measure = measure,
                            .measure_again = measure_again,
                            .cache_folder = cache_folder});
  }));
  py::list rows;
  for (const runtime::StepRooflineRow& row : roofline.rows) {
    py::dict dict;
    dict["op"] = row.op;
    dict["loc"] = row.loc;
    dict["tactic"] = row.tactic;
    dict["weights"] = py::tuple(py::cast(row.weights));
    dict["coded"] = row.coded;
    dict["bytes"] = row.bytes;
    dict["flops"] = row.flops;
    dict["floor_us"] = row.floor_us;
    dict["bound_by"] = row.bound_by_memory ? "memory" : "arithmetic";
    dict["achieved_us"] = row.achieved_us;
    rows.append(dict);
  }
  py::dict dict;
  dict["device"] = roofline.device.name;
  dict["source"] = roofline.device.source;
  dict["read_gb_per_s"] = roofline.device.read_gb_per_s;
  py::dict rates;
  for (const auto& [dtype, rate] : roofline.device.tflop_per_s) rates[py::str(std::string(DTypeName(dtype)))] = rate;
  dict["tflop_per_s"] = rates;
  dict["launch_us"] = roofline.device.launch_us;
  dict["rows"] = rows;
  return dict;
}

std::string Repr(const SamplingParams& params) {
  return absl::StrCat("SamplingParams(temperature=", params.temperature, ", top_k=", params.top_k,
                      ", top_p=", params.top_p, ", min_p=", params.min_p,
                      ", repetition_penalty=", params.repetition_penalty, ", seed=", params.seed,
                      ", max_tokens=", params.max_tokens, ", logprobs=", params.logprobs, ")");
}

// --- logging -----------------------------------------------------------------

// Hands every record of the C++ library to a Python function.
class PythonLogSink final : public absl::LogSink {
 public:
  void set_handler(py::object handler) { handler_ = std::move(handler); }
  void Send(const absl::LogEntry& entry) override {
    const py::gil_scoped_acquire acquire;
    if (handler_.is_none()) return;
    try {
      handler_(static_cast<int>(entry.log_severity()),
               py::str(entry.text_message().data(), entry.text_message().size()),
               py::str(entry.source_filename().data(), entry.source_filename().size()), entry.source_line());
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("flashflow log handler");  // a record must not break what it reports on
    }
  }

 private:
  py::object handler_ = py::none();
};

void SetLogHandler(const py::object& handler) {
  static PythonLogSink* sink = nullptr;  // lives as long as the process: records may come from any thread
  if (sink == nullptr) {
    sink = new PythonLogSink;
    absl::AddLogSink(sink);
    // The interpreter must not be called into once it goes down.
    py::module_::import("atexit").attr("register")(py::cpp_function([] { sink->set_handler(py::none()); }));
  }
  sink->set_handler(handler);
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The C++ library of FlashFlow.";
  absl::InitializeLog();
  absl::SetStderrThreshold(absl::LogSeverityAtLeast::kInfinity);  // a library prints nothing

  m.def("version", [] { return std::string(runtime::kVersion); });
  m.def("set_log_handler", &SetLogHandler, py::arg("handler"),
        "Calls handler(severity, message, file, line) for each log record; severity as absl's: 0 info, 1 warning, "
        "2 error, 3 fatal. None: records are dropped.");
  m.def(
      "measure_read_bandwidth",
      [](int threads) { return Check(Released([&] { return runtime::MeasureCpuReadBandwidth(threads); })); },
      py::arg("threads") = 0, "Bytes per second that this machine's memory gives; 0 threads: one a core.");

  m.def("import_graph", &ImportGraph, py::arg("graph_json"), "graph.json -> .ffir text.");
  m.def("parse_ir", &ParseIr, py::arg("text"), ".ffir text -> the same graph in canonical text.");
  m.def("verify", &Verify, py::arg("text"), "Raises unless the text is a valid graph.");
  m.def("list_passes", &ListPasses, "The names of all passes.");
  m.def("run_passes", &RunPasses, py::arg("text"), py::arg("passes") = py::none(), py::arg("options") = py::dict(),
        "Runs the named passes, or the whole pipeline to the step graph, on .ffir text.");
  m.def("compile_plan", &CompilePlan, py::arg("text"), py::arg("options") = py::dict(),
        "A rectangular graph as .ffir text -> its plan as JSON.");
  m.def("interpret", &Interpret, py::arg("text"), py::arg("inputs"), py::arg("weights"), py::arg("mode") = "typed",
        "Evaluates a graph on arrays, by name; uint16 arrays are the bits of bfloat16. Outputs are float32 in the mode "
        "\"typed\" and float64 in the mode \"wide\".");
  m.def("build_engine", &BuildEngine, py::arg("path"), py::arg("graph_json"), py::arg("weights"),
        py::arg("config_json"), py::arg("tokenizer_json") = py::bytes(), py::arg("options") = py::dict(),
        py::arg("progress") = py::none(),
        "Compiles an exported graph and writes an engine file. `weights` maps each weight's name to an array (float32, "
        "float16, or uint16 for the bits of bfloat16) and is asked for one at a time. progress(done_bytes, "
        "total_bytes) is called as the file grows; an exception from it or from `weights` ends the build and leaves "
        "no file.");

  m.def("check_graph", &CheckGraph, py::arg("graph_json"), py::arg("device") = "cpu",
        "Raises unless a graph of any inputs and outputs compiles for the device as it is, without a KV cache.");
  py::class_<PackedWeight>(m, "PackedWeight", "A weight in the layout that a CompiledGraph asks for.")
      .def(py::init(&PackWeight), py::arg("array"), py::arg("layout"), py::arg("transposed") = false,
           "The row-major layout, if it is not transposed, is the array's own memory, which it keeps alive; others are "
           "copies.")
      .def_property_readonly("nbytes", [](const PackedWeight& weight) { return weight.loaded.bytes; });
  py::class_<CompiledGraph>(m, "CompiledGraph",
                            "A graph of any inputs and outputs, compiled for a device: cpu, cuda or cuda:N. Safe to "
                            "use from several threads.")
      .def(py::init(&CompileGraph), py::arg("graph_json"), py::arg("device") = "cpu")
      .def_property_readonly("symbols", &SymbolNames, "The names of the sizes that run() takes, in order.")
      .def_property_readonly(
          "inputs", [](const CompiledGraph& graph) { return Signature(graph, graph.plan().inputs); },
          "(name, dtype, dims) of each.")
      .def_property_readonly(
          "outputs", [](const CompiledGraph& graph) { return Signature(graph, graph.plan().outputs); },
          "(name, dtype, dims) of each.")
      .def_property_readonly(
          "weights", &WeightList,
          "(names, dtype, shape, layout, transposed) of each: the tensors of these names, joined along axis "
          "0; if it is transposed, of the one tensor with its axes exchanged.")
      .def_property_readonly("num_steps", [](const CompiledGraph& graph) { return graph.plan().steps.size(); })
      .def_property_readonly(
          "plan", [](const CompiledGraph& graph) { return plan::ToJson(graph.plan()); }, "As JSON.")
      .def("run", &RunGraph, py::arg("symbols"), py::arg("inputs"), py::arg("weights"),
           "On the CPU. Arrays in, new arrays out, by position. Symbols are the sizes; dtypes and shapes are checked "
           "against them.")
      .def(
          "output_dims",
          [](const CompiledGraph& graph, const std::vector<int64_t>& symbols) {
            return Check(graph.OutputDims(symbols));
          },
          py::arg("symbols"), "The dims of each output.")
      .def(
          "arena_bytes",
          [](const CompiledGraph& graph, const std::vector<int64_t>& symbols) {
            return Check(Released([&] { return graph.ArenaBytes(symbols); }));
          },
          py::arg("symbols"), "Memory that launch() wants for intermediate values.")
      .def(
          "launch", &LaunchGraph, py::arg("symbols"), py::arg("inputs"), py::arg("weights"), py::arg("outputs"),
          py::arg("arena"), py::arg("stream"),
          "On a GPU, and returns before it is done. Tensors are (address, dtype, dims) in its memory, dense, weights "
          "row-major in the dtypes and shapes of `weights`; the arena is (address, bytes), the stream a cudaStream_t.");

  py::class_<SamplingParams>(m, "SamplingParams")
      .def(py::init([](float temperature, int top_k, float top_p, float min_p, float repetition_penalty, uint64_t seed,
                       int max_tokens, std::vector<int32_t> stop_token_ids, bool ignore_eos, int logprobs) {
             SamplingParams params;
             params.temperature = temperature;
             params.top_k = top_k;
             params.top_p = top_p;
             params.min_p = min_p;
             params.repetition_penalty = repetition_penalty;
             params.seed = seed;
             params.max_tokens = max_tokens;
             params.stop_token_ids = std::move(stop_token_ids);
             params.ignore_eos = ignore_eos;
             params.logprobs = logprobs;
             Check(params.Validate());
             return params;
           }),
           py::kw_only(), py::arg("temperature") = 1.0f, py::arg("top_k") = 0, py::arg("top_p") = 1.0f,
           py::arg("min_p") = 0.0f, py::arg("repetition_penalty") = 1.0f, py::arg("seed") = 0,
           py::arg("max_tokens") = 128, py::arg("stop_token_ids") = std::vector<int32_t>(),
           py::arg("ignore_eos") = false, py::arg("logprobs") = 0)
      .def_readonly("temperature", &SamplingParams::temperature)
      .def_readonly("top_k", &SamplingParams::top_k)
      .def_readonly("top_p", &SamplingParams::top_p)
      .def_readonly("min_p", &SamplingParams::min_p)
      .def_readonly("repetition_penalty", &SamplingParams::repetition_penalty)
      .def_readonly("seed", &SamplingParams::seed)
      .def_readonly("max_tokens", &SamplingParams::max_tokens)
      .def_readonly("stop_token_ids", &SamplingParams::stop_token_ids)
      .def_readonly("ignore_eos", &SamplingParams::ignore_eos)
      .def_readonly("logprobs", &SamplingParams::logprobs)
      .def("__repr__", &Repr);

  py::class_<TokenEvent>(m, "TokenEvent")
      .def_readonly("request", &TokenEvent::request)
      .def_readonly("token", &TokenEvent::token)
      .def_readonly("logprob", &TokenEvent::logprob)
      .def_readonly("top_logprobs", &TokenEvent::top_logprobs, "(token, logprob) pairs, most probable first.")
      .def_property_readonly(
          "finish_reason", [](const TokenEvent& event) { return runtime::FinishReasonName(event.finish_reason); },
          "Empty while the request goes on; else \"eos\", \"stop\" or \"length\", and this is its last event.");

  m.def(
      "check_device",
      [](const std::string& device, int threads) {
        return Check(Released([&] { return Engine::CheckDevice({.device = device, .threads = threads}); }));
      },
      py::arg("device") = "auto", py::arg("threads") = 0,
      "The kind of device that Engine would take, \"cpu\" or \"cuda\"; raises what it would of its device and "
      "threads.");
  py::class_<Engine>(m, "Engine", "An opened .ff file. Safe to use from several threads.")
      .def(py::init(&OpenEngine), py::arg("path"), py::arg("device") = "auto", py::arg("threads") = 0,
           py::arg("max_batch") = 16, py::arg("kv_cache_bytes") = 0, py::arg("tuning") = "",
           py::arg("batch_invariant") = false)
      .def("info", &Info)
      .def("submit", &Submit, py::arg("token_ids"), py::arg("params") = SamplingParams(),
           "Queues a request and returns its number.")
      .def("step", &Step, "Runs one batch; the tokens it brought, at most one a request.")
      .def(
          "cancel", [](Engine& engine, int64_t request) { return Released([&] { return engine.Cancel(request); }); },
          py::arg("request"), "Ends a request; whether it was still on.")
      .def("has_work", [](const Engine& engine) { return Released([&] { return engine.HasWork(); }); })
      .def("roofline", &Roofline, py::kw_only(), py::arg("device") = "", py::arg("tokens") = 1,
           py::arg("context") = 512, py::arg("measure") = true, py::arg("measure_again") = false,
           py::arg("cache_folder") = "",
           "The device, and for each step of the plan what it costs at least and takes; achieved_us is 0 where it was "
           "not measured.")
      .def("forward", &Forward, py::arg("token_ids"), "The logits after each token: float32[tokens, vocabulary].");
}

}  // namespace flashflow
