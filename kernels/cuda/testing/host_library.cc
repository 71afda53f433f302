#include "kernels/cuda/testing/host_library.h"

#include "kernels/cuda/testing/host_api.h"

namespace flashflow::cuda {
namespace {

testing::HostApi& Host() {
  static auto* host = new testing::HostApi({.memory_bytes = int64_t{1} << 30, .deferred = true});
  return *host;
}

}  // namespace

extern "C" const Api* flashflow_cuda_api(int version) { return version == kApiVersion ? &Host().api() : nullptr; }

namespace testing {

extern "C" void flashflow_host_fail(const char* function, int error, int skip) {
  Host().Fail(function, static_cast<cudaError_t>(error), skip);
}
extern "C" bool flashflow_host_take_back_failures() { return Host().TakeBackFailures(); }
extern "C" int64_t flashflow_host_live_objects() { return Host().live_objects(); }

}  // namespace testing
}  // namespace flashflow::cuda
