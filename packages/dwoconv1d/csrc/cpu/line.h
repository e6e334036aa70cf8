// What the kernels for channels that lie side by side are told: how to walk one line over an image, and one task of it.
#pragma once

#include "cpu/job.h"

namespace dwoconv1d {

// Outputs of a block are neighbours along their line, so that most inputs serve several taps of several outputs from
// one register. Up to kMostSegment taps, each one step of the block further than the one before, form a segment.
constexpr int64_t kMostSegment = 8;
constexpr int64_t kMostBlocks = 8;  // along a line in one task
struct Segment {
  int64_t along, across;  // of the first tap
  int64_t taps;
  int64_t distance;  // bytes from an output's pixel to the first tap's
  int64_t weight;    // of the first tap, in vectors
};

// "Along" is the direction, rows or columns, in which the line is longer, "across" the other one.
struct Line {
  const Segment* segments;  // sorted along
  int64_t count;
  int64_t block;      // outputs of a block: 8 or 14
  bool flat;          // along is along rows
  int64_t slant;      // steps across per step along, in a block: 1 or -1 of diagonals, else 0
  int64_t rise, run;  // of the whole line: neighbouring blocks lie on it
  int64_t reach;      // no block reads further along
  // Of a block whose image begins or ends so far along, up to `reach`: the segments in the image.
  const int32_t *first_live, *end_live;
  const int32_t *first_across, *end_across;  // of the segments in the image, per position across
};

// Outputs of up to a vector of channels of one image; float32, stride 1.
struct LineTask {
  const Line* line;
  const char* source;  // of the first lane of pixel (0, 0), as is `out`
  char* out;
  int64_t source_h, source_w, out_h, out_w;  // strides in bytes
  int64_t height, width;                     // of the source
  Area area;
  const float *weight, *bias;  // (taps, vector), (vector,)
  uint32_t lanes;              // a bit per lane that is written
  Prefetch reads, writes;      // of a later task
};

}  // namespace dwoconv1d
