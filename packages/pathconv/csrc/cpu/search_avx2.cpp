#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define LEVEL_BYTES 32
#include "cpu/search_level.h"

namespace pathconv {
extern const SearchLevel search_avx2 = {distances, find};
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
