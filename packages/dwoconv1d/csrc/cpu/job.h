// What the dispatcher hands to the kernels of one instruction-set level. No STL: these types live in units compiled for
// newer processors, where an inlined template of the standard library could leak into the rest of the program.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/half.h"

namespace dwoconv1d {

using namespace leanconv::cpu;
using leanconv::bytes_of;
using leanconv::DType;

// Distances, in elements, between neighbours along each dimension of an (N, C, H, W) tensor.
struct Strides {
  int64_t n, c, h, w;
};

// The taps of one convolution after coincident ones were merged and dead ones dropped, sorted by dy then dx.
struct Taps {
  int64_t count;
  const int64_t *dy, *dx;
};

// The part of one image that one task reads: a single plane, or up to one vector of channels that share their taps.
struct Source {
  const void* data;
  int64_t h, w, c;  // strides
  int64_t height, width;
};

// How vectors lie: `channels` has one channel per lane, all at one pixel; `pixels` has neighbouring pixels of one
// plane. Source rows are copied once into zero-margined scratch, where every tap of every pixel is one constant
// distance away; both lanes then run the same code, since neighbouring accumulators are one vector apart in either.
enum class Lanes { channels, pixels };

// Columns of packed rows. Those that are equal modulo stride_w (a phase) lie together, so that neighbouring outputs
// always read neighbouring columns.
struct Window {
  int64_t rows;      // source rows of one tile
  int64_t cols;      // of one phase
  int64_t first_dx;  // of the first column, in output columns
};

// Shared by all tasks of a group of channels.
struct Geometry {
  Lanes lanes;
  Taps taps;
  Window window;
  int64_t out_height, out_width;
  int64_t stride_h, stride_w;
};

// Outputs [p0, p1) x [q0, q1).
struct Area {
  int64_t p0, p1, q0, q1;
};

// Memory to ask for while a task computes: `rows` times `runs` stretches of `bytes`, with the distances between them in
// bytes.
struct Prefetch {
  const char* base;
  int64_t rows, row_stride, runs, run_stride, bytes;
};

struct ConvTask {
  Source source;
  Area area;
  void* out;                    // of output (0, 0)
  int64_t out_h, out_w, out_c;  // strides
  int64_t channels;             // live lanes; 1 for Lanes::pixels
  const void* weight;           // (taps, vector) or (taps,), in the accumulator's type
  const void* bias;             // (vector,) or a scalar, in the accumulator's type
  Prefetch reads, writes;       // of a later task
  void* scratch;
};

struct GradTask {
  Source source, grad;
  Area area;
  int64_t channels;
  void* sums;  // (taps + 1, vector), added to: the taps' gradients, then the bias'; lanes of pixels are summed by the
               // caller
  Prefetch reads, grad_reads;
  void* scratch;
};

// Up to kMostTaps taps one below the other, or side by side, whose weights follow one another from `first` on.
struct TapGroup {
  int64_t dy, dx, first;
  int shape;
};
constexpr int kMostTaps = 3, kShapes = 2 * kMostTaps - 1;
constexpr int shape_of(int down, int across) { return across > 1 ? kMostTaps + across - 2 : down - 1; }

// Planes that are read in place are cut into tiles of this many columns, those into strips of up to four vectors.
constexpr int64_t kTileColumns = 256, kStripVectors = 4;
constexpr int64_t strips_of(int64_t vectors) { return (vectors + kStripVectors - 1) / kStripVectors; }
constexpr int64_t strip_begin(int64_t vectors, int64_t strip) { return vectors * strip / strips_of(vectors); }

// One channel of planes that are read in place.
struct Plane {
  const TapGroup* groups;     // by their shape,
  int64_t ends[kShapes + 1];  // those of shape s in [ends[s], ends[s + 1])
  const uint64_t* live;       // (tiles across, strips of a whole tile, taps): pixels read that are in the image
  int64_t taps;
  const float* weight;
};

// The same outputs of `count` planes, float32, with stride 1 and unit strides along rows.
struct PlanesTask {
  const float* source;
  int64_t source_c, source_h, height;  // strides, and rows of the source
  float* out;
  int64_t out_c, out_h;
  int64_t count;
  const Plane* planes;
  const float* bias;
  Area area;
};

// Tasks whose sources are packed together, at most.
constexpr int64_t kMaxBatch = 16;

struct LineTask;  // see line.h

// The kernels of one level. `bytes` is its vector width. Tasks of one call differ only in their channels.
struct Level {
  int64_t bytes;
  void (*conv)(DType, const Geometry* const*, const ConvTask*, int64_t count);
  void (*grad)(DType, const Geometry* const*, const GradTask*, int64_t count);
  void (*planes)(const PlanesTask&);  // null where planes are not read in place
  void (*line)(const LineTask&);      // null where channels are not
};

extern const Level level_baseline;
#if defined(__x86_64__)
extern const Level level_avx2, level_avx512;
#endif

static inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// Neighbouring rows computed together where one row has too few accumulators to keep the multipliers busy.
constexpr int64_t kMostRows = 8;
static constexpr int64_t rows_at_once(int64_t vectors) {
  return vectors >= 8 ? 1 : vectors >= 4 ? 2 : vectors >= 2 ? 4 : kMostRows;
}

}  // namespace dwoconv1d
