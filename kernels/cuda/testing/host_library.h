// libflashflow_cuda_host.so: in place of libflashflow_cuda.so, a library that computes on the host. Beside its table it
// exports what a test steers its HostApi with.
#ifndef KERNELS_CUDA_TESTING_HOST_LIBRARY_H_
#define KERNELS_CUDA_TESTING_HOST_LIBRARY_H_

#include <cstdint>

namespace flashflow::cuda::testing {

// The functions of HostApi.
extern "C" void flashflow_host_fail(const char* function, int error, int skip);
extern "C" bool flashflow_host_take_back_failures();
extern "C" int64_t flashflow_host_live_objects();

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_HOST_LIBRARY_H_
