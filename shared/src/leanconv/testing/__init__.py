"""What the tests of the packages share; it needs pytest, and `emulator` needs this repository around it.

* `cpu`: the levels of native CPU kernels, and memory that ends at a page which may not be touched
* `cuda`: CUDA source compiled by nvcc and NVRTC, without a GPU
* `emulator`: CUDA source run on the CPU, with tensors that show what was read or written beside them
* `models`: what networks and their checkpoints do alike
"""
