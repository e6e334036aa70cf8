// Device code of the backward pass. A block takes one point. It lists the taps that the point touches, then reads the
// gradient there, channel by channel: lanes of a warp are 8 taps of 4 channels. All of a point's gradients stay in the
// block, so nothing is added in memory.
//
// There is no dense product to turn to when radii grow, for its arithmetic is this one's at full density. With N
// points, T taps and C channels it would multiply N T C times for the weights (grad by tents), N T C times for the
// pulls (weights by grad), and 3 N T times to make positions and radii of these; add_taps multiplies as often: twice
// for each tap and channel of a point, and three times for each tap and kAtOnce of its channels. Tents are computed
// once for each point and tap where the reach has no more than kTouches taps, else once for each slice of kChannelStep
// * kAtOnce channels. What tiles of a dense product would save are readings of grad, of which every point makes its
// own, mostly from the cache, and where kernels are averaged the counts, which every point makes anew for its own taps.
#pragma once

#include "cuda/points.cuh"

namespace smpconv::points {

constexpr int kTouches = 1024;  // of the taps around a point that are looked at in one pass
constexpr int kTapLanes = 8;
constexpr int kChannelLanes = 32 / kTapLanes;
constexpr int kChannelStep = kWarps * kChannelLanes;  // between the channels of a thread

// Channels of a thread under way at once.
template <typename T>
constexpr int kAtOnce = sizeof(T) == 8 ? 4 : 8;

// What a block has in shared memory.
template <typename T>
struct List {
  using A = Accumulator<T>;
  Vector<A, 4> touches[kTouches];  // the tent, the sign of p - x in each dimension, its length; averaged: over n + 1e-6
  int taps[kTouches];
  unsigned counts[kWarps];
  A sums[3][kWarps];
};

// The point of a block, and taps [begin, end) around it that hold all it touches.
struct Reach {
  int group, number;  // number: in the group
  Point point;
  int row, row_end, column, column_end;

  __device__ int taps() const { return maximum(row_end - row, 0) * maximum(column_end - column, 0); }
};

// Taps of one axis that are less than `radius` from `place`, and perhaps one that is no nearer on either side: rounding
// must not lose one.
__device__ inline void near(double place, double radius, int taps, bool turned, int* begin, int* end) {
  constexpr double kRounding = 1e-5;
  const double half = 0.5 * (taps - 1), middle = half + (turned ? -place : place) * half, spread = radius * half;
  const double first = middle - spread + (1 - kRounding), last = middle + spread + (1 + kRounding);
  *begin = !(first > 0) ? 0 : first < taps ? static_cast<int>(first) : taps;
  *end = !(last < taps) ? taps : last > 0 ? static_cast<int>(last) : 0;
}

template <typename T>
__device__ Reach reach_of(const Params& p, int number) {
  Reach r;
  r.group = number / p.points;
  r.number = number - r.group * p.points;
  r.point = load_point<T>(p, number);
  r.row = 0, r.row_end = 1;
  if (p.dims == 2) near(r.point.place.row, r.point.radius, p.height, p.flip, &r.row, &r.row_end);
  near(r.point.place.column, r.point.radius, p.width, false, &r.column, &r.column_end);
  if (!(r.point.radius > 0)) r.row_end = r.row;
  return r;
}

// Whether a point of the group is not finite. All threads of the block call it.
template <typename T>
__device__ bool is_lost(const Params& p, int group, List<T>* list) {
  bool spoilt = false;
  for (int i = static_cast<int>(threadIdx.x); i < p.points; i += kThreads)
    spoilt = spoilt || !is_finite(load_point<T>(p, static_cast<long long>(group) * p.points + i));
  const unsigned found = __ballot_sync(kWarpMask, spoilt);
  if (threadIdx.x % 32 == 0) list->counts[threadIdx.x / 32] = found;
  __syncthreads();
  unsigned any = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) any |= list->counts[warp];
  __syncthreads();  // before the counts are others
  return any != 0;
}

__device__ inline int sign(double v) { return (v > 0) - (v < 0); }

// Lists the touched among kTouches taps of the reach from `first` on, in order; returns how many they are.
template <typename T>
__device__ int list_touches(const Params& p, const Reach& r, int first, List<T>* list) {
  using A = Accumulator<T>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int taps = r.taps(), columns = r.column_end - r.column;
  const Place place = r.point.place;
  int total = 0;
  for (int begin = first; begin < taps && begin < first + kTouches; begin += kThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const int row = r.row + i / columns, column = r.column + i % columns;
    const Place tap = tap_place(p, row, column);
    const double length = distance(place, tap);
    const bool touches = i < taps && length < r.point.radius;
    const unsigned found = __ballot_sync(kWarpMask, touches);
    if (lane == 0) list->counts[warp] = static_cast<unsigned>(__popc(found));
    __syncthreads();
    int at = total + __popc(found & ((1u << lane) - 1));
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const int count = static_cast<int>(list->counts[w]);
      if (w < warp) at += count;
      total += count;
    }
    if (touches) {
      const int across = sign(place.row - tap.row), along = sign(place.column - tap.column);
      list->touches[at] = {{static_cast<A>(1 - length / r.point.radius), static_cast<A>(swapped(p) ? along : across),
                            static_cast<A>(swapped(p) ? across : along), static_cast<A>(length)}};
      list->taps[at] = row * p.width + column;
    }
    __syncthreads();
  }
  return total;
}

// Divides what is listed by the number of points that touch the tap; a warp takes a tap, its lanes the points.
template <typename T>
__device__ void average(const Params& p, int group, int count, List<T>* list) {
  using A = Accumulator<T>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = warp; i < count; i += kWarps) {
    const int row = list->taps[i] / p.width;
    const Place tap = tap_place(p, row, list->taps[i] - row * p.width);
    int touching = 0;
    for (int first = 0; first < p.points; first += 32) {
      const bool exists = first + lane < p.points;
      const Point other = load_point<T>(p, static_cast<long long>(group) * p.points + (exists ? first + lane : first));
      touching += __popc(__ballot_sync(kWarpMask, exists && distance(other.place, tap) < other.radius));
    }
    if (lane < 4) list->touches[i].value[lane] /= static_cast<A>(touching + 1e-6);
  }
  __syncthreads();
}

// Adds what the listed taps give to this thread's channels from `channel` on, and to the point.
template <typename T>
__device__ void add_taps(const Params& p, const Reach& r, int channel, int count, const List<T>& list,
                         Accumulator<T> (&to_weight)[kAtOnce<T>], Accumulator<T> (&to_point)[3]) {
  using A = Accumulator<T>;
  const long long row = static_cast<long long>(r.group) * p.channels + channel;
  const long long taps = static_cast<long long>(p.height) * p.width;
  const T* weights = static_cast<const T*>(p.weight) + row * p.points + r.number;
  const T* grad = static_cast<const T*>(p.grad) + row * taps;
  A weight[kAtOnce<T>];
#pragma unroll
  for (int c = 0; c < kAtOnce<T>; ++c) {
    const bool exists = channel + c * kChannelStep < p.channels;
    weight[c] = exists ? widen(weights[static_cast<long long>(c) * kChannelStep * p.points]) : A(0);
  }
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x) % kTapLanes; i < count; i += kTapLanes) {
    const Vector<A, 4> touch = list.touches[i];
    const T* at = grad + list.taps[i];
    A pull = 0;
#pragma unroll
    for (int c = 0; c < kAtOnce<T>; ++c) {
      if (channel + c * kChannelStep >= p.channels) continue;
      const A value = widen(at[c * kChannelStep * taps]);
      to_weight[c] += value * touch.value[0];
      pull += value * weight[c];
    }
#pragma unroll
    for (int q = 0; q < 3; ++q) to_point[q] += pull * touch.value[q + 1];
  }
}

// Writes the sums of the tap lanes for this thread's channels from `channel` on, or `lost` for all.
template <typename T>
__device__ void store_weights(const Params& p, const Reach& r, int channel, bool lost,
                              Accumulator<T> (&to_weight)[kAtOnce<T>]) {
  using A = Accumulator<T>;
  const long long first = (static_cast<long long>(r.group) * p.channels + channel) * p.points + r.number;
#pragma unroll
  for (int c = 0; c < kAtOnce<T>; ++c) {
    A sum = to_weight[c];
#pragma unroll
    for (int step = kTapLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kWarpMask, sum, step);
    if (threadIdx.x % kTapLanes == 0 && channel + c * kChannelStep < p.channels)
      static_cast<T*>(p.grad_weight)[first + static_cast<long long>(c) * kChannelStep * p.points] =
          narrow<T>(lost ? not_a_number<A>() : sum);
  }
}

// The block's sums for the point's position and radius. All threads of the block call it.
template <typename T>
__device__ void store_point(const Params& p, const Reach& r, bool lost, const Accumulator<T> (&to_point)[3],
                            List<T>* list) {
  using A = Accumulator<T>;
#pragma unroll
  for (int q = 0; q < 3; ++q) {
    const A sum = warp_sum(to_point[q]);
    if (threadIdx.x % 32 == 0) list->sums[q][threadIdx.x / 32] = sum;
  }
  __syncthreads();
  const int part = static_cast<int>(threadIdx.x);
  if (part > 2 || (part == 1 && p.dims == 1)) return;
  A total = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += list->sums[part][warp];
  const long long number = static_cast<long long>(r.group) * p.points + r.number;
  const double radius = r.point.radius > 0 ? r.point.radius : 1.0;
  const A value = static_cast<A>(part < 2 ? -total / radius : total / radius / radius);
  T* to = part < 2 ? static_cast<T*>(p.grad_coords) + number * p.dims + part : static_cast<T*>(p.grad_radius) + number;
  *to = narrow<T>(lost ? not_a_number<A>() : value);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) gather(const Params p) {
  using A = Accumulator<T>;
  List<T>* list = reinterpret_cast<List<T>*>(leanconv::dynamic_shared());
  const Reach r = reach_of<T>(p, static_cast<int>(blockIdx.x));
  const bool lost = is_lost<T>(p, r.group, list);
  const int taps = lost ? 0 : r.taps();
  const int mine = static_cast<int>(threadIdx.x) / kTapLanes;
  A to_point[3] = {};
  int count = 0;
  for (int slice = 0; slice < p.channels; slice += kChannelStep * kAtOnce<T>) {
    A to_weight[kAtOnce<T>] = {};
    for (int first = 0; first < taps; first += kTouches) {
      if (slice == 0 || taps > kTouches) {  // else the list is still there
        __syncthreads();                    // before it is another
        count = list_touches(p, r, first, list);
        if (p.average) average(p, r.group, count, list);
      }
      add_taps(p, r, slice + mine, count, *list, to_weight, to_point);
    }
    store_weights<T>(p, r, slice + mine, lost, to_weight);
  }
  store_point<T>(p, r, lost, to_point, list);
}

}  // namespace smpconv::points
