// Runs the checks of every kernel that the first GPU takes, or those named on the command line (by the names below).
// Exits 0 where all passed, 1 where one failed, 77 where there is no GPU that the kernels support.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

#include "kernels/cuda/testing/report.h"

int main(int argc, char** argv) {
  using flashflow::cuda::testing::Report;
  int major = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess || major < 8) {
    std::printf("skipped: needs a GPU of compute capability 8.0 or higher\n");
    return 77;
  }
  const bool hopper = major == 9;
  const struct {
    const char* name;
    void (*run)(Report&);
    bool hopper_only = false;
  } suites[] = {
      {"gemm", flashflow::cuda::testing::TestGemm, true},
      {"gemm_skinny", flashflow::cuda::testing::TestGemmSkinny},
      {"gemm_rows", flashflow::cuda::testing::TestGemmRows, true},
      {"gemm_portable", flashflow::cuda::testing::TestGemmPortable},
      {"gemm_s8", flashflow::cuda::testing::TestGemmS8},
      {"attention", flashflow::cuda::testing::TestFusedAttention},
      {"paged_attention", flashflow::cuda::testing::TestPagedAttention},
      {"int8_cache", flashflow::cuda::testing::TestInt8Cache},
      {"rope_append", flashflow::cuda::testing::TestRopeAppend},
      {"embedding", flashflow::cuda::testing::TestEmbedding},
      {"norm", flashflow::cuda::testing::TestNorm},
      {"quantize", flashflow::cuda::testing::TestQuantize},
      {"softmax", flashflow::cuda::testing::TestSoftmax},
      {"sampling", flashflow::cuda::testing::TestSampling},
      {"elementwise", flashflow::cuda::testing::TestElementwise},
      {"contractions", flashflow::cuda::testing::TestContractions},
  };
  int failures = 0;
  for (const auto& suite : suites) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::strcmp(argv[i], suite.name) == 0;
    if (!wanted) continue;
    if (suite.hopper_only && !hopper) {
      std::printf("%s: skipped, needs a GPU of compute capability 9.0\n", suite.name);
      continue;
    }
    Report report;
    report.hopper = hopper;
    suite.run(report);
    std::printf("%s: %d checks, %d failures\n", suite.name, report.checks, report.failures);
    failures += report.failures;
  }
  return failures == 0 ? 0 : 1;
}
