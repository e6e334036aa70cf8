#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define LEVEL_BYTES 64
#include "cpu/norm_gelu_row.h"

namespace pathconv::norm_gelu {
void rows_avx512(const Params& a, int64_t begin, int64_t end) { rows(a, begin, end); }
}  // namespace pathconv::norm_gelu

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
