#include "cpu/plan.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <tuple>
#include <utility>

#include "cpu/half.h"

namespace dwoconv1d {
namespace {

// Scratch that one tile may fill: a good part of a second-level cache, so that strips of it find their rows there.
constexpr int64_t kTileBytes = 768 << 10;
// Multiply-adds that are worth handing to another thread: a few microseconds.
constexpr int64_t kGrainWork = 1 << 18;
// Vectors of channels pay while at least a quarter of their lanes is live.
constexpr int64_t kLeastLive = 4;

struct Tap {
  int64_t dy, dx;
  bool operator<(const Tap& other) const { return std::tie(dy, dx) < std::tie(other.dy, other.dx); }
  bool operator==(const Tap& other) const { return dy == other.dy && dx == other.dx; }
};

// The tap as the reads see it; false when it never reaches the image.
bool resolve(const Reads& r, int64_t channel, int64_t s, Tap* tap) {
  int64_t dy = r.offsets[channel * r.taps + s], dx = r.offsets[(r.channels + channel) * r.taps + s];
  if (r.transposed) {
    dy = r.row_class - dy;
    dx = r.column_class - dx;
    if (dy % r.op_stride_h != 0 || dx % r.op_stride_w != 0) return false;
    dy /= r.op_stride_h;
    dx /= r.op_stride_w;
  }
  *tap = {dy, dx};
  return dy < r.height && dx < r.width && dy + (r.out_height - 1) * r.stride_h >= 0 &&
         dx + (r.out_width - 1) * r.stride_w >= 0;
}

template <class F>
auto with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float64: return f(double());
    case DType::float16: return f(Half());
    case DType::bfloat16: return f(BFloat16());
    default: return f(float());
  }
}

}  // namespace

Plan::Plan(const Reads& reads, bool channels_last, int64_t vector_bytes, DType dtype) : reads_(reads), dtype_(dtype) {
  number_ = dtype == DType::float64 ? sizeof(double) : sizeof(float);
  vector_ = vector_bytes / static_cast<int64_t>(number_);
  find_groups();
  find_blocks(channels_last);
  find_tiles();
}

void Plan::find_groups() {
  const size_t row = reads_.taps * sizeof(int32_t);
  const int32_t *dy = reads_.offsets, *dx = dy + reads_.channels * reads_.taps;
  std::vector<Tap> taps;
  for (int64_t c = 0; c < reads_.channels; ++c, dy += reads_.taps, dx += reads_.taps) {
    if (c > 0 && std::memcmp(dy, dy - reads_.taps, row) == 0 && std::memcmp(dx, dx - reads_.taps, row) == 0) {
      ++groups_.back().channels;
      continue;
    }
    taps.clear();
    Tap tap;
    for (int64_t s = 0; s < reads_.taps; ++s)
      if (resolve(reads_, c, s, &tap)) taps.push_back(tap);
    std::sort(taps.begin(), taps.end());
    taps.erase(std::unique(taps.begin(), taps.end()), taps.end());
    Group group;
    group.first = c;
    group.channels = 1;
    for (const Tap& t : taps) {
      group.dy.push_back(t.dy);
      group.dx.push_back(t.dx);
    }
    for (int64_t s = 0; s < reads_.taps; ++s) {
      const bool alive = resolve(reads_, c, s, &tap);
      group.tap_of.push_back(alive ? std::lower_bound(taps.begin(), taps.end(), tap) - taps.begin() : -1);
    }
    groups_.push_back(std::move(group));
  }
}

void Plan::find_blocks(bool channels_last) {
  int64_t vectors = 0;
  for (const Group& group : groups_) vectors += (group.channels + vector_ - 1) / vector_;
  lanes_ = channels_last && vectors * vector_ <= kLeastLive * reads_.channels ? Lanes::channels : Lanes::pixels;
  const int64_t step = lanes_ == Lanes::channels ? vector_ : 1;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (int64_t c = 0; c < groups_[g].channels; c += step) {
      blocks_.push_back({static_cast<int64_t>(g), groups_[g].first + c, std::min(step, groups_[g].channels - c), weights_});
      weights_ += groups_[g].dy.size() * step;
    }
  }
}

void Plan::find_tiles() {
  for (const Group& group : groups_) {
    Geometry g = {lanes_, group.taps(), reads_.out_height, reads_.out_width, reads_.stride_h, reads_.stride_w, 0, 0};
    const int64_t unit = (lanes_ == Lanes::channels ? vector_ : 1) * static_cast<int64_t>(number_);
    const int64_t strip = 14 * (lanes_ == Lanes::channels ? 1 : vector_);
    // Whole rows where enough of them fit, else narrower tiles; a tile should not be smaller than the rows it overlaps.
    g.tile_cols = reads_.out_width;
    for (;;) {
      g.tile_rows = 1;
      const Window window = window_of(g, vector_);
      const int64_t fitting = kTileBytes / std::max<int64_t>(1, window.cols * reads_.stride_w * unit) - window.rows;
      g.tile_rows = std::min(reads_.out_height, std::max<int64_t>(8, fitting / reads_.stride_h));
      if (g.tile_rows == reads_.out_height || g.tile_rows >= window.rows || g.tile_cols <= strip) break;
      g.tile_cols = (g.tile_cols / 2 + strip - 1) / strip * strip;
    }
    const Window window = window_of(g, vector_);
    const size_t numbers = window.rows * window.cols * reads_.stride_w * unit;
    scratch_bytes_ = std::max(scratch_bytes_, numbers + (group.dy.size() + 8) * sizeof(int64_t) + 256);
    geometries_.push_back(g);
  }
}

Geometry Plan::geometry(const Block& block) const { return geometries_[block.group]; }

int64_t Plan::grain() const {
  size_t taps = 1;
  for (const Group& group : groups_) taps = std::max(taps, group.dy.size());
  const int64_t work = reads_.out_height * reads_.out_width * static_cast<int64_t>(taps) *
                       (lanes_ == Lanes::channels ? vector_ : 1);
  return std::max<int64_t>(1, kGrainWork / std::max<int64_t>(1, work));
}

std::vector<unsigned char> Plan::weights(const void* weight, bool residual) const {
  std::vector<unsigned char> bytes(weights_ * number_ + 64);
  with_type(dtype_, [&](auto type) {
    using T = decltype(type);
    using A = typename AccumulatorOf<T>::type;
    A* out = reinterpret_cast<A*>(bytes.data());
    const int64_t step = lanes_ == Lanes::channels ? vector_ : 1;
    for (const Block& block : blocks_) {
      const std::vector<int64_t>& tap_of = groups_[block.group].tap_of;
      for (int64_t c = 0; c < block.channels; ++c) {
        const T* in = static_cast<const T*>(weight) + (block.first + c) * reads_.taps;
        for (int64_t s = 0; s < reads_.taps; ++s)
          if (tap_of[s] >= 0) out[block.weights + tap_of[s] * step + c] += widen(in[s]) + A(residual && s == reads_.taps / 2);
      }
    }
  });
  return bytes;
}

std::vector<unsigned char> Plan::biases(const void* bias) const {
  std::vector<unsigned char> bytes((reads_.channels + vector_) * number_);
  if (bias == nullptr) return bytes;
  with_type(dtype_, [&](auto type) {
    using T = decltype(type);
    auto* out = reinterpret_cast<typename AccumulatorOf<T>::type*>(bytes.data());
    for (int64_t c = 0; c < reads_.channels; ++c) out[c] = widen(static_cast<const T*>(bias)[c]);
  });
  return bytes;
}

void* thread_scratch(size_t bytes) {
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(64)); }
  };
  static thread_local std::unique_ptr<void, Free> memory;
  static thread_local size_t size = 0;
  if (bytes > size) {
    size = 0;
    memory.reset();
    memory.reset(::operator new(bytes, std::align_val_t(64)));
    size = bytes;
  }
  return memory.get();
}

}  // namespace dwoconv1d
