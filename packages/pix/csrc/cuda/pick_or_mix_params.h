// What a launch of the kernels over feature maps is told. Pointers, then 32-bit numbers: cupy_backend/maps.py packs the
// same.
#pragma once

namespace pix::maps {

// Feature maps are dense, (N, channels, H, W) or (N, H, W, channels), all of a launch alike. Numbers per channel and
// sums are in accumulation precision.
//   sums     reads x, or grad and y                  writes partial
//   pick     reads x, gates                          writes y, choice
//   scatter  reads grad, gates, choice (y, shift, x)  writes grad_x (partial or grad_gates)
//   finish   reads partial, gates                    writes grad_gates
struct Params {
  const void* x;      // C channels; of scatter: for its signs, or null
  const void* grad;   // C' channels
  void* y;            // C' channels
  const void* gates;  // (N, C')
  void* choice;       // C' channels of bytes, or of ints if `wide`; of pick: or null
  void* grad_x;       // C channels
  const void* shift;  // (N, C), added to all pixels of grad_x, times the sign of x where that is given; or null
  void* partial;      // (N, pieces, channels): sums of the pixels of a piece
  void* grad_gates;   // (N, C'); of scatter: null if not wanted
  int batch, channels, outputs, pixels;  // N, C, C', H * W
  int zeta, count_short, wide;
  int product, absolute;  // whether sums adds up grad * y, or else |x|
  float tau;
  // The plan. Channels first, threads run along the pixels of a plane; channels last, along the channels of a pixel.
  int width;    // channels first: neighbours that a thread reads at once; last: of sums likewise, else zeta or 0: any
  int team;     // channels first: threads of a plane, a power of two up to 32, or all of a block; 0: it shares a block
  int columns;  // channels last: threads of a block along the channels
  int pieces;   // of the pixels of an image, each with blocks of its own
  int span;     // of a piece: channels first in reads of a thread, last in pixels; of a block: planes that share it
};

}  // namespace pix::maps
