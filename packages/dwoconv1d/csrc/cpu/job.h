// What the dispatcher hands to the kernels of one instruction-set level. No STL: these types live in units compiled for
// newer processors, where an inlined template of the standard library could leak into the rest of the program.
#pragma once

#include <cstdint>

namespace dwoconv1d {

enum class DType { float32, float64, float16, bfloat16 };

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

// How vectors lie: `channels` has one channel per lane, all at one pixel; `pixels` has neighbouring pixels of one plane.
// Source rows are copied once into zero-margined scratch, where every tap of every pixel is one constant distance away;
// both lanes then run the same code, since neighbouring accumulators are one vector apart in either.
enum class Lanes { channels, pixels };

// Geometry shared by the forward and the weight-gradient tasks of a group of channels.
struct Geometry {
  Lanes lanes;
  Taps taps;
  int64_t out_height, out_width;
  int64_t stride_h, stride_w;
  int64_t tile_rows, tile_cols;  // outputs per scratch filling
};

struct ConvTask {
  Source source;
  void* out;
  int64_t out_h, out_w, out_c;  // strides
  int64_t channels;             // live lanes; 1 for Lanes::pixels
  const void* weight;           // (taps, vector) or (taps,), in the accumulator's type
  const void* bias;             // (vector,) or a scalar, in the accumulator's type
  void* scratch;
};

struct GradTask {
  Source source, grad;
  int64_t channels;
  void* sums;  // (taps + 1, vector), added to: the taps' gradients, then the bias'; lanes of pixels are summed by the caller
  void* scratch;
};

// The kernels of one level. `bytes` is its vector width.
struct Level {
  int64_t bytes;
  void (*conv)(DType, const Geometry&, const ConvTask&);
  void (*grad)(DType, const Geometry&, const GradTask&);
};

extern const Level level_baseline;
#if defined(__x86_64__)
extern const Level level_avx2, level_avx512;
#endif

// The scratch layout of one tile, in vectors or pixels as units; the same for the dispatcher (sizes) and the kernels.
struct Window {
  int64_t rows;      // source rows
  int64_t cols;      // columns of one phase (columns that are equal modulo stride_w lie together)
  int64_t first_dx;  // of the first column, in output columns
};

static inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// Neighbouring rows computed together where one row has too few accumulators to keep the multipliers busy.
static constexpr int64_t rows_at_once(int64_t vectors) { return vectors >= 8 ? 1 : vectors >= 4 ? 2 : vectors >= 2 ? 4 : 8; }

static inline Window window_of(const Geometry& g, int64_t vector) {
  int64_t first = 0, last = 0;
  for (int64_t i = 0; i < g.taps.count; ++i) {
    const int64_t column = floor_div(g.taps.dx[i], g.stride_w);
    first = column < first ? column : first;
    last = column > last ? column : last;
  }
  const int64_t top = g.taps.count ? g.taps.dy[0] : 0, bottom = g.taps.count ? g.taps.dy[g.taps.count - 1] : 0;
  Window window;
  window.rows = (g.tile_rows - 1) * g.stride_h + 1 + (bottom > 0 ? bottom : 0) - (top < 0 ? top : 0);
  const int64_t round = g.lanes == Lanes::pixels ? vector : 1;
  window.cols = (g.tile_cols + round - 1) / round * round + last - first;
  window.first_dx = first;
  return window;
}

}  // namespace dwoconv1d
