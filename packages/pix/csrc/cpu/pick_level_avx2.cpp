#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define LEVEL_BYTES 32
#include "cpu/pick_backward.h"
#include "cpu/pick_blend.h"
#include "cpu/pick_forward.h"
#include "cpu/pick_sums.h"

namespace pix {
extern const Level level_avx2 = {pick, scatter, fence, dots, sums, blend, spread, outer};
}  // namespace pix

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
