#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define LEVEL_BYTES 64
#include "cpu/conv.h"
#include "cpu/direct_channels.h"
#include "cpu/direct_rows.h"
#include "cpu/grad.h"

namespace dwoconv1d {
extern const Level level_avx512 = {LEVEL_BYTES, conv, grad, conv_planes, conv_line};
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
