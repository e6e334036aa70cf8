// What the dispatcher of the traversal hands to the kernels of one instruction-set level. No STL: these types live in
// units compiled for newer processors.
#pragma once

#include <cstdint>

#include "cpu/dtype.h"

namespace pathconv::traversal {

// Distances, in elements, between neighbours along each dimension of an image (N, C, H, W) or a sequence (N, C, L).
struct ImageStrides {
  int64_t n, c, h, w;
};
struct SequenceStrides {
  int64_t n, c, l;
};

// Where three things lie, as three numbers of 21 bits in one, so that one load brings them all.
constexpr int kPlaceBits = 21;
constexpr int64_t kPlaces = int64_t{1} << kPlaceBits;
inline uint64_t places_of(int64_t first, int64_t second, int64_t third) {
  return static_cast<uint64_t>(first) | static_cast<uint64_t>(second) << kPlaceBits |
         static_cast<uint64_t>(third) << 2 * kPlaceBits;
}
inline int64_t place_of(uint64_t places, int64_t i) { return places >> i * kPlaceBits & (kPlaces - 1); }

// Where 16 numbers of a plane lie: in up to kPieces pieces of as many neighbours, from which permutations pick them.
// Paths that fill space stay in few pieces, as do the positions of neighbouring pixels: a gather takes longer.
constexpr int64_t kPicked = 16, kPieces = 8;
struct Picks {
  uint8_t lanes[kPicked];  // of the pieces side by side
  // Places: the first number of two pieces and how many pieces there are (4, 6 or 8; 0 where there are more), then the
  // first numbers of the others.
  uint64_t at[3];
};

// Lines of 16 sums in the order in which a path reaches the last number of each, so that its plane is read once from
// one end to the other; among the lines of a block those of as many pieces stand together.
constexpr int64_t kBlock = 64;
struct PickBlock {
  int64_t ask;          // the line of the plane, or beyond it of the next, to be asked for with the first of them
  uint8_t counts[4];    // of lines in 4, 6, 8 and more pieces
  Picks picks[kBlock];  // with the line of the sums in place of the number of pieces
};

// Runs of 16 pixels, each once for each of three paths, in the order in which the path reaches the last of them.
constexpr int64_t kRuns = 32, kRunBytes = 16 * 3 * sizeof(float);
struct RunBlock {
  int64_t ask;                   // bytes from the first position, or beyond them of the next sample's, to be asked for
  int32_t firsts, count;         // runs; those that are the first of their pixels stand before the others
  int32_t to[kRuns];             // elements from the first pixel to the run
  int32_t from[kRuns][kPicked];  // elements from the first position to what its pixels are the sums of
};

// A plane of pixels read along P paths at once, so that it is in the cache from the second path on.
struct PlaneGather {
  const void* plane;     // readable 64 bytes beyond its end
  const int32_t* index;  // (P, length)
  int64_t paths, length;
  void* out;                     // of path 0
  int64_t out_path;              // elements from path to path
  const void* next;              // the plane of a later task, to be asked for meanwhile
  bool stream;                   // past the cache: aligned rows of a result that is larger than it
  const Picks* picks = nullptr;  // (P, length / kPicked) of `index`, float32, or null
};

// Pixels with their channels side by side; a position takes `bytes` of them per path.
struct PixelGather {
  const void* pixels;
  int64_t pixel;         // bytes from pixel to pixel
  const int32_t* index;  // (P, length)
  int64_t paths, length, bytes;
  void* out;  // (length, P, bytes)
  const void* next;
  bool stream;
  // Of each position, elements from the first pixel to those of three paths; or null. Three channels of float32, of
  // which what follows the last pixel may be read, or (`last`) what precedes the first.
  const uint64_t* places = nullptr;
  bool last = false;
};

// The sums that turn P gathered planes, or positions, back into one.
struct PlaneSum {
  const void* const* planes;  // P of them, each readable 64 bytes beyond its end
  const int32_t* inverse;     // (P, length)
  int64_t paths, length;
  void* out;
  int64_t next;  // bytes from these planes to those of a later task
  bool stream;
  const Picks* picks = nullptr;  // (P, length / kPicked) of `inverse`, float32, or null
  // (P, length / kPicked / kBlock, rounded up), for planes that are read one by one, and their sums, (length); or null
  const PickBlock* blocks = nullptr;
  void* sums = nullptr;
};
struct PixelSum {
  const void* positions;   // (length, P, channels)
  int64_t position, path;  // elements from position to position, from path to path
  const int32_t* inverse;  // (P, length)
  int64_t paths, length, channels;
  void* out;         // (length, channels)
  int64_t next = 0;  // bytes from these positions to those of a later task
  // Slots of kSlot bytes, one per pixel and all zero, to which `index`, (P, length), scatters what is read; or null.
  void* slots = nullptr;
  const int32_t* index = nullptr;
  bool stream = false;  // past the cache
  // Of 3 * (length / kPicked) runs, or null: three paths of three channels of float32, dense, of which what follows the
  // last position may be read, or (`last`) what precedes the first. The sums of runs stay in `sums`, those that are
  // there from the sample before go to `previous`, if it is not null; pixels beyond whole runs go to `out` at once.
  const RunBlock* runs = nullptr;
  void *sums = nullptr, *previous = nullptr;
  // For levels without plans of runs: of each pixel, elements from the first position to what it is the sum of; or
  // null.
  const uint64_t* places = nullptr;
  bool last = false;
};
constexpr int64_t kTile = 16, kSlot = 16, kScatterAhead = 8192;  // pixels; bytes; bytes

// Accumulators, (P * C + 1, block) rows of numbers: pixels along the paths, widened, and a last row of ones.
struct Columns {
  const void* image;     // the first sample's pixel 0
  int64_t c, pixel;      // elements from channel to channel, from pixel to pixel
  const int32_t* index;  // (P, length), at the first position
  int64_t paths, channels, length;
  int64_t block;  // positions, a multiple of 16, of which the last may lie beyond `live`
  int64_t live;
  void* out;
  const Picks* picks = nullptr;  // of `index`, float32 and neighbouring pixels, or null
  int64_t lines = 0;             // of picks from path to path
};

// out(i, j) = sum_k a[i * a_row + k * a_step] * b[k * b_row + j], added to what `out` holds where `add`
struct Product {
  int64_t rows, columns, depth;
  const void* a;
  int64_t a_row, a_step;
  const void* b;  // rows readable to whole vectors
  int64_t b_row;
  void* out;
  int64_t out_row;
  bool add, stream;
};

// The kernels of one level; `wide` is float64, else float32. Sums of accumulators narrow to `dtype`.
struct Level {
  int64_t bytes;
  bool plans;  // whether it follows picks, blocks and runs
  void (*gather_planes)(int64_t element, const PlaneGather&);
  void (*gather_pixels)(const PixelGather&);
  void (*sum_planes)(DType in, DType out, const PlaneSum&);
  void (*sum_pixels)(DType in, DType out, const PixelSum&);
  void (*columns)(DType, const Columns&);
  void (*multiply)(bool wide, const Product&);
  void (*widen)(DType, const void* in, void* out, int64_t count);
  void (*narrow)(DType, const void* in, void* out, int64_t count);
  // (rows, count) -> (count, out_row), zeros beyond the rows; both readable, and out writable, to whole vectors
  void (*turn)(bool wide, const void* in, int64_t in_row, int64_t rows, int64_t count, void* out, int64_t out_row);
  void (*stream)(const void* in, void* out, int64_t bytes);             // past the cache, from aligned memory
  bool (*inside)(const int32_t* index, int64_t count, int64_t length);  // whether all are in [0, length)
};

extern const Level level_baseline;
#if defined(__x86_64__)
extern const Level level_avx2, level_avx512;
#endif

}  // namespace pathconv::traversal
