// What the rasterizing kernels of every level take. A group of channels shares its points, and every point touches few
// taps: these are listed once, and as many channels as a vector has lanes go through the list together.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace smpconv {

using leanconv::DType;

struct RasterizeParams {
  int64_t groups, channels, points;
  int64_t dims, height, width;  // height is 1 in one dimension
  bool average, flip;
  DType dtype;
};

// The taps that the points of one group touch, point by point. Numbers are of the sums' type.
struct Touches {
  const int64_t* starts;  // (points + 1,)
  const int32_t* taps;
  const void* phi;      // over n + 1e-6, if averaged
  const void* pull[3];  // likewise: the signs of p - x in each dimension, then its length; for the backward pass
  const uint8_t* live;  // (taps / lanes,), rounded up: whether a point touches any tap of it
};

// Channels [0, channels) of one group, not more than a vector has lanes; `weight` and `kernel` or their gradients.
struct RasterizeTask {
  const Touches* touches;
  int64_t channels;
  const void* weight;  // (channels, points)
  const void* grad;    // (channels, taps), for the backward pass
  void* out;           // (channels, taps) or (channels, points)
  void* pulls;         // (dims + 1, points) sums over the channels
  void* scratch;       // rasterize_scratch vectors
};

struct RasterizeLevel {
  int64_t (*scratch)(const RasterizeParams&);
  void (*forward)(const RasterizeParams&, const RasterizeTask&);
  void (*backward)(const RasterizeParams&, const RasterizeTask&);
};

}  // namespace smpconv
