"""What target_compatible_with says of CUDA targets: they skip where the machine lacks what they need."""

# To compile: a CUDA toolkit, the machine's or that of --config=cuda.
REQUIRES_TOOLKIT = select({
    "//tools/cuda:toolkit_present": [],
    "//conditions:default": ["@platforms//:incompatible"],
})

# To run: a toolkit and an NVIDIA GPU.
REQUIRES_GPU = select({
    "//tools/cuda:gpu_present": [],
    "//conditions:default": ["@platforms//:incompatible"],
})
