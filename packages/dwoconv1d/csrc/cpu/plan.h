// What is worked out once per call: which channels share their taps, which taps matter, and how large tiles may be.
#pragma once

#include <cstddef>
#include <vector>

#include "cpu/job.h"

namespace dwoconv1d {

// Distinct taps that reach the image, sorted by row, then column.
struct TapSet {
  std::vector<int64_t> dy, dx;

  Taps taps() const { return {static_cast<int64_t>(dy.size()), dy.data(), dx.data()}; }
};

// Channels of a block with equal offsets; `map` tells for each of their K weights its tap in the block's set, or -1.
struct Piece {
  int64_t first, channels;
  size_t map;
};

// What one task computes of an image: channels side by side, one per lane, or a single one.
struct Block {
  int64_t set, first, channels;
  size_t weights;  // where its weights start in Plan::weights, in numbers
  size_t first_piece, last_piece;
};

// Reads at (p * stride_h + dy, q * stride_w + dx) of an image height x width, for each of out_height x out_width
// outputs.
struct Reads {
  int64_t channels, taps;
  int64_t height, width, out_height, out_width, stride_h, stride_w;
  const int32_t* offsets;  // (2, C, K)
  // Which tap of the op this is: for the input gradient of one residue class, offsets are negated, divided by the op's
  // stride, and those that do not divide drop out.
  bool transposed;
  int64_t row_class, column_class, op_stride_h, op_stride_w;
};

struct Tap {
  int64_t dy, dx;
  bool operator<(const Tap& other) const { return dy != other.dy ? dy < other.dy : dx < other.dx; }
  bool operator==(const Tap& other) const { return dy == other.dy && dx == other.dx; }
};

// The tap as the reads see it; false when it never reaches the image.
bool resolve(const Reads& reads, int64_t channel, int64_t s, Tap* tap);

// What one task works on: a tile of outputs of one image, for neighbouring blocks. Blocks are innermost, so that pixels
// with all their channels side by side come from memory once.
struct Unit {
  int64_t image;
  Area area;
  int64_t first_block, last_block;
};

class Plan {
 public:
  // `in_place` where the level can read planes in place, and wherever that is possible the plan is one for doing so.
  Plan(const Reads& reads, int64_t batch, Strides source, Strides target, int64_t vector_bytes, DType dtype,
       bool in_place = false);

  int64_t units() const { return batch_ * tiles_down_ * tiles_across_ * ranges_; }
  Unit unit(int64_t index) const;
  // For sums over units: tiles are summed in this many chunks, whatever the number of threads, each range apart.
  int64_t chunks() const;
  int64_t ranges() const { return ranges_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const std::vector<Piece>& pieces() const { return pieces_; }
  const std::vector<int64_t>& map(const Piece& piece) const { return maps_[piece.map]; }
  const Geometry& geometry(const Block& block) const { return geometries_[block.set]; }
  Lanes lanes() const { return lanes_; }
  bool in_place() const { return in_place_; }
  std::vector<Plane> planes(const float* weights) const;  // one per channel
  int64_t vector() const { return vector_; }
  size_t number() const { return number_; }
  size_t scratch_bytes() const { return scratch_bytes_; }  // of one block
  int64_t batch() const;                                   // blocks whose scratch fits the cache together
  int64_t grain() const;                                   // units that are worth a thread

  // The distinct taps' weights of every block: coincident ones added, the residual one included, converted.
  // weight (C, K) in the plan's dtype; the result holds (taps, vector) or (taps,) numbers from Block::weights on.
  std::vector<unsigned char> weights(const void* weight, bool residual) const;
  // (C,) numbers per channel, zeros for null, with room for a whole vector behind the last channel.
  std::vector<unsigned char> biases(const void* bias) const;

  // The part of a unit's source rows, or of its outputs, to ask for while the part-th block of the unit before is
  // computed.
  Prefetch reads_of(const Unit& unit, const void* source, Strides strides, int64_t part) const;
  Prefetch writes_of(const Unit& unit, const void* target, Strides strides, int64_t part) const;

 private:
  struct Run;  // neighbouring channels with equal offsets
  struct Groups {
    std::vector<TapGroup> groups;
    int64_t ends[kShapes + 1];
    std::vector<uint64_t> live;
  };

  std::vector<Run> find_runs() const;
  void find_blocks(const std::vector<Run>& runs, Strides source, Strides target);
  void add_blocks(const Run& run, int64_t step);
  void add_mixed_blocks(const std::vector<Run>& runs);
  size_t add_map(const Run& run, const TapSet& set);
  void find_tiles(bool channels_last);
  void find_plane_tiles();
  Groups find_groups(const TapSet& set) const;
  Window window(const TapSet& set) const;
  Prefetch share(const Unit& unit, const void* data, Strides strides, const Area& area, int64_t part) const;

  Reads reads_;
  int64_t batch_;
  DType dtype_;
  Lanes lanes_;
  int64_t vector_;  // accumulators per vector
  size_t number_;   // bytes per accumulator
  std::vector<TapSet> sets_;
  std::vector<std::vector<int64_t>> maps_;
  std::vector<Piece> pieces_;
  std::vector<Block> blocks_;
  std::vector<Geometry> geometries_;  // per set
  bool in_place_;
  std::vector<Groups> groups_;  // per set, of a plan for planes in place
  int64_t tile_rows_, tile_cols_, tiles_down_, tiles_across_, range_, ranges_;
  int64_t bottom_ = 0;  // largest dy
  size_t weights_ = 0, scratch_bytes_ = 0;
};

// Memory of the calling thread, aligned for any vector, kept until the thread ends.
void* thread_scratch(size_t bytes);

}  // namespace dwoconv1d
