// A table of api.h that computes on the host: what is built on it is tested where there is no GPU.
#ifndef KERNELS_CUDA_TESTING_HOST_API_H_
#define KERNELS_CUDA_TESTING_HOST_API_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cuda/api.h"

namespace flashflow::cuda::testing {

struct HostApiOptions {
  int compute_capability = 90;  // of the one device, 0
  int64_t memory_bytes = int64_t{256} << 20;
  // False: a call does its work before it returns. True: only once something waits for it, as late as a GPU might, so
  // that who reads a result or changes an operand too early sees that.
  bool deferred = false;
};

// The table's functions, as CUDA's: device memory is its own (host memory, poisoned), streams run their work in order,
// and a capture keeps calls for graph_launch to repeat. Kernels are the loops of host_kernels.h. One at a time: a table
// of plain functions has no room for another. May be called from any thread.
//
// What CUDA answers with an error that is found out late comes here from the call itself, or where work is deferred
// from the one that waits: cudaErrorIllegalAddress for operands outside of device memory, as a host pointer or past the
// end of a block. Every other call answers cudaErrorIllegalAddress from then on, as on a GPU.
class HostApi {
 public:
  explicit HostApi(const HostApiOptions& options = {});
  ~HostApi();
  HostApi(const HostApi&) = delete;
  HostApi& operator=(const HostApi&) = delete;

  const Api& api() const;

  // From now on, the call of the function named as in Api that comes after `skip` others fails, once, and does nothing.
  void Fail(std::string_view function, cudaError_t error, int skip = 0);
  // Takes back what has not come of it; whether there was anything.
  bool TakeBackFailures();

  // The kernels that have run since the last call, named as in Api, in order: those of a graph at each launch.
  std::vector<std::string> TakeKernels();

  // What is there and has not been given back: for finding leaks.
  int64_t device_bytes() const;
  int64_t live_objects() const;  // blocks of memory, of the device and page-locked, streams, events and graphs

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_HOST_API_H_
