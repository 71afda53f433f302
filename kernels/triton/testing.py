"""Where the kernels' tests run: on the GPU, or without one in Triton's interpreter. Import it before triton."""

import os

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

# Eps of a dtype; f32 products are not of TF32.
EPS = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# The interpreter multiplies bfloat16 by its bits.
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
