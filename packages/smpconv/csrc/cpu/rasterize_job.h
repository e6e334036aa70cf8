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

// Lists are filled up to whole eights: loops over them come out even.
constexpr int64_t kStep = 8;
// Vectors of channels of one group that one task takes. What the channels of a task say of a point is added up in it,
// so this must not depend on the number of threads.
constexpr int64_t kTaskVectors = 4;
// Taps are found in vectors of up to so many numbers, which may be written in one piece behind the last.
constexpr int64_t kSlack = 16;

// Where taps lie on one axis, which is turned where coordinates fall with the index. At least kSlack entries behind the
// last one are infinite.
struct Axis {
  const double* at;
  int64_t taps;
  bool turned;
};

// The taps that the points of one group touch, point by point. Numbers are of the sums' type; what fills up a list has
// zeros and the kStep taps behind the last.
struct Touches {
  Axis row, column;
  int64_t* starts;  // (points + 1,)
  int32_t* taps;
  void* phi;
  void *row_sign, *column_sign;  // of p - x; for the backward pass
  void* share;                   // (taps + kStep,) 1 / (n + 1e-6), if averaged
  void* dense;                   // phi of all points in eights of taps, where that pays; for the forward pass
  uint8_t* live;                 // whether a point touches any tap of each tile of lanes
};

inline int64_t dense_numbers(const RasterizeParams& p) {
  return ((p.height * p.width + kStep - 1) / kStep + 1) * kStep * p.points;
}

// Channels [0, channels) of one group; `weight` and the kernel or their gradients.
struct RasterizeTask {
  const Touches* touches;
  int64_t channels;
  const void* weight;  // (channels, points)
  const void* grad;    // (channels, taps), for the backward pass
  void* out;           // (channels, taps) or (channels, points)
  void* pulls;         // (dims + 1, points): sums over the channels for the column, the row and the radius
  void* scratch;       // rasterize_scratch vectors
};

struct RasterizeLevel {
  int64_t (*scratch)(const RasterizeParams&);
  // False where a point is not finite.
  bool (*find)(const RasterizeParams&, const void* coords, const void* radius, bool backward, Touches&);
  void (*forward)(const RasterizeParams&, const RasterizeTask&);
  void (*backward)(const RasterizeParams&, const RasterizeTask&);
};

}  // namespace smpconv
