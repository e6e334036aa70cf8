// What the dispatcher hands to the depthwise kernels of one instruction-set level. No STL: these types live in units
// compiled for newer processors, where an inlined template of the standard library could leak into the rest of the
// program.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"

namespace pathconv::depthwise {

// Distances, in elements, between neighbours along each dimension of an (N, C, L) tensor.
struct Strides {
  int64_t n, c, l;
};

// How vectors lie: `channels` has one channel per lane, all at one position; `positions` has neighbouring positions of
// one channel. Neighbouring accumulators are then neighbouring positions, or neighbouring vectors of positions.
enum class Lanes { channels, positions };

// Outputs at out + q * Geometry::out_step for q in [0, length): tap j of plane p reads position
// q * Geometry::stride + Geometry::first + shift + j of the plane.
struct Line {
  int64_t out, length;
  int64_t shift, taps;
  int64_t weights;  // index of its first weight among those of an output channel, plane by plane
};

// One convolution, shared by all tasks. The forward pass and the weight gradient have one line and one plane; the input
// gradient has a line for every residue of positions modulo the stride, and the planes of the M outputs of a channel.
struct Geometry {
  Lanes lanes;
  int64_t out_channels, planes, share;  // plane p of output channel o is channel (o * planes + p) / share of the source
  int64_t stride, first, span;          // all lines together read q * stride + first + [0, span)
  int64_t source_length, out_step;
  int64_t line_count, weights;  // weights of an output channel
  const Line* lines;
  Strides source, out;  // `out` is the upstream gradient's in weight gradients
  bool direct;          // where nothing has to be converted or rearranged, and nothing lies outside
  // Packed sources: planes of `phases` rows of `columns` each. For lanes of positions, those that are equal modulo the
  // stride (a phase) lie together, so that neighbouring outputs read neighbouring columns.
  int64_t phases, columns;
  int64_t strip;                  // outputs of a line that are packed together
  const int64_t *packed, *plain;  // distance of every weight's source from the first one, in elements
};

// Outputs [q0, q1) of every line of one sample: of all channels or, for lanes of positions, of groups [g0, g1) of the
// channels that share a source.
struct ConvTask {
  const void* source;  // of the sample
  void* out;
  const void* weight;  // (blocks, weights, vector), or (channels, weights), in the accumulator's type
  const void* bias;    // (channels,), in the accumulator's type
  int64_t g0, g1, q0, q1;
  void* scratch;
};

struct GradTask {
  const void *source, *grad;
  void* sums;  // (blocks, weights + 1, vector), or (channels, weights + 1), added to: the taps', then the bias'
  int64_t g0, g1, q0, q1;
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

// Blocks of lanes that cover `channels`. The last one ends with the channels and overlaps its neighbour, which costs
// less than masks: both compute the same.
static inline int64_t blocks_of(int64_t channels, int64_t lanes) { return (channels + lanes - 1) / lanes; }
static inline int64_t block_start(int64_t block, int64_t channels, int64_t lanes) {
  const int64_t last = channels > lanes ? channels - lanes : 0;
  return block * lanes < last ? block * lanes : last;
}

}  // namespace pathconv::depthwise
