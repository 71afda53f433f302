// Counts and prints what the checks of a test program found; a program, not a framework, so that it runs anywhere.
#ifndef KERNELS_CUDA_TESTING_REPORT_H_
#define KERNELS_CUDA_TESTING_REPORT_H_

#include <cstdio>

namespace flashflow::cuda::testing {

struct Report {
  bool hopper = false;  // whether the GPU takes kernels that only Hopper has: their checks are left out elsewhere
  int checks = 0;
  int failures = 0;

  // Prints a line for a failure only.
  void Expect(bool good, const char* what, const char* where) {
    ++checks;
    if (good) return;
    ++failures;
    if (failures <= 40) std::printf("FAIL %s: %s\n", where, what);
  }
};

void TestGemm(Report& report);
void TestGemmSkinny(Report& report);
void TestGemmRows(Report& report);
void TestGemmPortable(Report& report);
void TestGemmS8(Report& report);
void TestFusedAttention(Report& report);
void TestPagedAttention(Report& report);
void TestInt8Cache(Report& report);
void TestRopeAppend(Report& report);
void TestEmbedding(Report& report);
void TestNorm(Report& report);
void TestQuantize(Report& report);
void TestSoftmax(Report& report);
void TestSampling(Report& report);
void TestElementwise(Report& report);
void TestContractions(Report& report);

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_REPORT_H_
