#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw")
#endif
#define LEVEL_BYTES 64
#include "cpu/traverse_product.h"

namespace pathconv::traversal {
extern const Level level_avx512 = kLevel;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
