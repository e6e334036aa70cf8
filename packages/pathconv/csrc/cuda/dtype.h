// The dtypes of the CUDA kernels, and the GPUs that they were compiled for.
#pragma once

#include <cstdint>
#include <string>

namespace pathconv {

enum class DType { float32, float64, float16, bfloat16 };

inline int64_t bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// Bytes of a sum.
inline int64_t sum_bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : 4; }

// Architectures with machine code in this library, for example "sm_75, sm_80, sm_90".
std::string compiled_archs();

}  // namespace pathconv
