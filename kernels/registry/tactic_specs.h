// The rows of TacticSpecs(), a device a file.
#ifndef KERNELS_REGISTRY_TACTIC_SPECS_H_
#define KERNELS_REGISTRY_TACTIC_SPECS_H_

#include <vector>

#include "kernels/registry/tactic.h"

namespace flashflow::kernels {

std::vector<TacticSpec> CpuTacticSpecs();
std::vector<TacticSpec> CudaTacticSpecs();

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_TACTIC_SPECS_H_
