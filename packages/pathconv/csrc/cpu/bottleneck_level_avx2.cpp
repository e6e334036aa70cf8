#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define LEVEL_BYTES 32
#include "cpu/bottleneck_rows.h"

namespace pathconv::bottleneck {
extern const Level level_avx2 = kLevel;
}  // namespace pathconv::bottleneck

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
