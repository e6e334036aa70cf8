// What the device code of all kernels shares.
#pragma once

#include "common/block.cuh"

namespace smpconv {

using leanconv::Accumulator;
using leanconv::kWarpMask;
using leanconv::maximum;
using leanconv::minimum;
using leanconv::narrow;
using leanconv::Vector;
using leanconv::warp_sum;
using leanconv::widen;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

}  // namespace smpconv
