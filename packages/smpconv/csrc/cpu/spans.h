// Where on the grid points may touch taps: of some points at a time, so that compilers do it in vectors.
#pragma once

#include "cpu/pack.h"
#include "cpu/rasterize_job.h"

namespace smpconv {
namespace {

// [begin, end) holds all taps that are less than `reach` from p, and perhaps one that is no nearer on either side:
// rounding must not lose one.
inline void near(const Axis& axis, double p, double reach, int32_t* begin, int32_t* end) {
  const double last = static_cast<double>(axis.taps), half = 0.5 * (last - 1);
  const double middle = half + p * (axis.turned ? -half : half), spread = reach * half;
  constexpr double kRounding = 1e-5;
  const double from = middle - spread + (1 - kRounding), to = middle + spread + (1 + kRounding);
  // Where numbers so large that their products are infinite leave no difference, all taps.
  *begin = static_cast<int32_t>(from > 0 ? from < last ? from : last : 0);
  *end = static_cast<int32_t>(to < last ? to > 0 ? to : 0 : last);
}

constexpr int64_t kSpans = 64;

// Of up to kSpans points: positions along the columns and the rows, the radius, its inverse, and the rectangle of rows
// [row, row_end) and columns [begin, end) beside which nothing is touched; a radius not above 0 touches nothing in it
// either.
struct Spans {
  double q[kSpans], y[kSpans], r[kSpans], inverse[kSpans];
  int32_t row[kSpans], row_end[kSpans], begin[kSpans], end[kSpans];
};

// False where one of n points is not finite. In one dimension there is one row, on which all points lie.
template <class T>
bool measure_spans(const RasterizeParams& p, const Touches& touches, const T* coords, const T* radius, int64_t n,
                   Spans& out) {
  const int row_part = p.flip ? 1 : 0, column_part = p.dims == 1 || p.flip ? 0 : 1;
  for (int64_t i = 0; i < n; ++i) {
    out.q[i] = widen(coords[i * p.dims + column_part]);
    out.y[i] = p.dims == 1 ? touches.row.at[0] : static_cast<double>(widen(coords[i * p.dims + row_part]));
    out.r[i] = widen(radius[i]);
  }
  double differences = 0;  // of numbers from themselves: 0 for finite ones alone
  for (int64_t i = 0; i < n; ++i) {
    differences += (out.q[i] - out.q[i]) + (out.y[i] - out.y[i]) + (out.r[i] - out.r[i]);
    out.inverse[i] = 1 / out.r[i];
  }
  for (int64_t i = 0; i < n; ++i) near(touches.row, out.y[i], out.r[i], out.row + i, out.row_end + i);
  for (int64_t i = 0; i < n; ++i) near(touches.column, out.q[i], out.r[i], out.begin + i, out.end + i);
  return differences == 0;
}

}  // namespace
}  // namespace smpconv
