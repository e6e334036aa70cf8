#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define LEVEL_BYTES 32
#include "cpu/conv.h"
#include "cpu/grad.h"

namespace dwoconv1d {
extern const Level level_avx2 = {LEVEL_BYTES, conv, grad, nullptr, nullptr};
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
