#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define LEVEL_BYTES 32
#include "cpu/depthwise.h"
#include "cpu/level.h"
#include "cpu/rasterize.h"

namespace smpconv {
extern const Level level_avx2 = {SMPCONV_DEPTHWISE_LEVEL, SMPCONV_RASTERIZE_LEVEL};
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
