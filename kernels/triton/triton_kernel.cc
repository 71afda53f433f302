#include "kernels/triton/triton_kernel.h"

#include <cstring>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "compiler/ir/status_macros.h"

namespace flashflow::triton {
namespace {

// 0x7f E L F, and 190 for machine: what the runtime is given must at least be a CUDA object file.
bool IsCubin(absl::Span<const unsigned char> bytes) {
  return bytes.size() >= 64 && std::memcmp(bytes.data(), "\177ELF", 4) == 0 && (bytes[18] | bytes[19] << 8) == 190;
}

absl::Status FromCuda(cudaError_t error, const KernelMetadata& metadata, const char* doing) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(metadata.kernel, ": ", doing, ": ", cudaGetErrorString(error)));
}

}  // namespace

absl::StatusOr<TritonKernel> TritonKernel::Load(KernelMetadata metadata, absl::Span<const unsigned char> cubin) {
  if (static_cast<int64_t>(cubin.size()) != metadata.cubin_bytes || !IsCubin(cubin)) {
    return absl::InvalidArgumentError(absl::StrCat(metadata.kernel, ": expected a cubin of ", metadata.cubin_bytes,
                                                   " bytes, got ", cubin.size(), IsCubin(cubin) ? "" : " of no cubin"));
  }
  int device = 0, major = 0, minor = 0, shared = 0;
  FF_RETURN_IF_ERROR(FromCuda(cudaGetDevice(&device), metadata, "finding the GPU"));
  for (const auto& [value, attribute] :
       {std::pair{&major, cudaDevAttrComputeCapabilityMajor}, std::pair{&minor, cudaDevAttrComputeCapabilityMinor},
        std::pair{&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin}}) {
    FF_RETURN_IF_ERROR(
        FromCuda(cudaDeviceGetAttribute(value, attribute, device), metadata, "asking for the GPU's facts"));
  }
  if (!RunsOn(metadata, major, minor)) {
    return absl::FailedPreconditionError(
        absl::StrCat(metadata.kernel, ": compiled for ", metadata.arch, ", the GPU is of ", major, ".", minor));
  }
  if (metadata.shared_bytes > shared) {
    return absl::FailedPreconditionError(absl::StrCat(metadata.kernel, ": needs ", metadata.shared_bytes,
                                                      " bytes of shared memory, the GPU has ", shared, " a block"));
  }
  cudaLibrary_t library = nullptr;
  FF_RETURN_IF_ERROR(FromCuda(cudaLibraryLoadData(&library, cubin.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
                              metadata, "loading the cubin"));
  TritonKernel loaded(std::move(metadata), library, nullptr);
  FF_RETURN_IF_ERROR(FromCuda(cudaLibraryGetKernel(&loaded.kernel_, library, loaded.metadata_.entry.c_str()),
                              loaded.metadata_, "finding its entry"));
  FF_RETURN_IF_ERROR(FromCuda(
      cudaFuncSetAttribute(loaded.kernel_, cudaFuncAttributeMaxDynamicSharedMemorySize, loaded.metadata_.shared_bytes),
      loaded.metadata_, "asking for shared memory"));
  return loaded;
}

TritonKernel::TritonKernel(KernelMetadata metadata, cudaLibrary_t library, cudaKernel_t kernel)
    : metadata_(std::move(metadata)), library_(library), kernel_(kernel) {}

TritonKernel::TritonKernel(TritonKernel&& other) noexcept
    : metadata_(std::move(other.metadata_)),
      library_(std::exchange(other.library_, nullptr)),
      kernel_(std::exchange(other.kernel_, nullptr)) {}

TritonKernel& TritonKernel::operator=(TritonKernel&& other) noexcept {
  std::swap(metadata_, other.metadata_);
  std::swap(library_, other.library_);
  std::swap(kernel_, other.kernel_);
  return *this;
}

TritonKernel::~TritonKernel() {
  if (library_ != nullptr) cudaLibraryUnload(library_);  // an error here has nobody to go to
}

absl::Status TritonKernel::Launch(dim3 grid, absl::Span<const Argument> arguments, cudaStream_t stream) const {
  FF_RETURN_IF_ERROR(CheckArguments(metadata_, arguments));
  static constexpr const void* kNoScratch = nullptr;
  absl::InlinedVector<void*, 24> addresses;
  for (const Argument& argument : arguments) {
    addresses.push_back(std::visit(
        [](const auto& value) -> void* { return const_cast<void*>(static_cast<const void*>(&value)); }, argument));
  }
  for (int i = 0; i < metadata_.hidden_parameters; ++i) {
    addresses.push_back(const_cast<void*>(static_cast<const void*>(&kNoScratch)));
  }
  return FromCuda(
      cudaLaunchKernel(kernel_, grid, dim3(metadata_.threads), addresses.data(), metadata_.shared_bytes, stream),
      metadata_, "launching");
}

}  // namespace flashflow::triton
