// edit in shared/common/native/dtype.h
// The dtypes of all kernels.
#pragma once

#include <cstdint>

namespace leanconv {

enum class DType { float32, float64, float16, bfloat16 };

inline int64_t bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

// Bytes of a sum.
inline int64_t sum_bytes_of(DType dtype) { return dtype == DType::float64 ? 8 : 4; }

}  // namespace leanconv
