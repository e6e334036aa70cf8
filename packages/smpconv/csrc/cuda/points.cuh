// Points and taps as the device code sees them. Distances are double whatever the dtype, so that it does not depend on
// rounding which taps a point touches.
#pragma once

#include "cuda/block.cuh"
#include "cuda/rasterize_params.h"

namespace smpconv::points {

// A place on [-1, 1], by row and column; in one dimension the row is 0.
struct Place {
  double row, column;
};

struct Point {
  Place place;
  double radius;
};

// Where tap i of `taps` lies on [-1, 1].
__device__ inline double coordinate(int i, int taps) { return taps == 1 ? -1.0 : (2.0 * i - (taps - 1)) / (taps - 1); }

__device__ inline double row_coordinate(const Params& p, int row) {
  if (p.dims == 1) return 0.0;
  const double x = coordinate(row, p.height);
  return p.flip ? -x : x;
}

__device__ inline Place tap_place(const Params& p, int row, int column) {
  return {row_coordinate(p, row), coordinate(column, p.width)};
}

// Whether component 0 of a point is its column's.
__device__ inline bool swapped(const Params& p) { return p.dims == 1 || p.flip; }

// Point `i` of all groups' points.
template <typename T>
__device__ Point load_point(const Params& p, long long i) {
  const T* at = static_cast<const T*>(p.coords) + i * p.dims;
  const double first = widen(at[0]), second = p.dims == 2 ? static_cast<double>(widen(at[1])) : 0.0;
  const double radius = widen(static_cast<const T*>(p.radius)[i]);
  return {swapped(p) ? Place{second, first} : Place{first, second}, radius};
}

__device__ inline double magnitude(double v) { return v < 0 ? -v : v; }

__device__ inline double distance(const Place& a, const Place& b) {
  return magnitude(a.row - b.row) + magnitude(a.column - b.column);
}

__device__ inline bool is_finite(const Point& point) {
  const double sum = 0 * point.place.row + 0 * point.place.column + 0 * point.radius;
  return sum == 0;
}

// A block of taps, by its first and last row and column.
struct Box {
  int row, last_row, column, last_column;
};

// How far v is from what lies between a and b, in either order.
__device__ inline double gap(double v, double a, double b) {
  const double below = (a < b ? a : b) - v, above = v - (a < b ? b : a);
  return below > 0 ? below : above > 0 ? above : 0.0;
}

// Whether a tap of `box` may be less than its radius from the point: rounding never takes one away, since it keeps
// order and no tap is nearer than the box.
__device__ inline bool may_touch(const Params& p, const Point& point, const Box& box) {
  const Place first = tap_place(p, box.row, box.column), last = tap_place(p, box.last_row, box.last_column);
  return gap(point.place.row, first.row, last.row) + gap(point.place.column, first.column, last.column) < point.radius;
}

// The number of a NaN.
template <typename A>
__device__ A not_a_number() {
  const A zero = 0;
  return zero / zero;
}

}  // namespace smpconv::points
