// Finds the taps that the points of one group touch. Distances are double whatever the dtype, so that it does not
// depend on rounding which these are.
#pragma once

#include "cpu/spans.h"

namespace smpconv {
namespace {

template <class A>
inline A sign(double v) {
  return static_cast<A>((v > 0) - (v < 0));
}

constexpr int64_t kBox = 4;

// Appends to the lists of Touches, of which it knows the end.
template <class A>
class TouchList {
 public:
  TouchList(const RasterizeParams& p, const Touches& touches, bool backward)
      : taps_(touches.taps), phi_(static_cast<A*>(touches.phi)), row_sign_(static_cast<A*>(touches.row_sign)),
        column_sign_(static_cast<A*>(touches.column_sign)), backward_(backward) {
#if LEVEL_BYTES == 64
    const int32_t width = static_cast<int32_t>(p.width), beyond = static_cast<int32_t>(p.height * p.width);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i row = _mm512_srli_epi32(lane, 2), column = _mm512_and_epi32(lane, _mm512_set1_epi32(kBox - 1));
    box_ = _mm512_add_epi32(_mm512_mullo_epi32(row, _mm512_set1_epi32(width)), column);
    beyond_ = _mm512_add_epi32(_mm512_set1_epi32(beyond), _mm512_and_epi32(lane, _mm512_set1_epi32(kStep - 1)));
#endif
  }
  int64_t count() const { return count_; }

  // Those of columns [begin, end) that are less than r from q and `across`; tap `first` is in column 0.
  void append(const double* columns, int64_t begin, int64_t end, int64_t first, double q, double across, double r,
              double inverse) {
    const int64_t start = count_;
#if LEVEL_BYTES == 64
    for (; begin < end; begin += 8)
      append_vector(columns + begin, first + begin, q, __builtin_fabs(across), r, inverse);
#else
    for (; begin < end; ++begin) {
      const double along = q - columns[begin], distance = __builtin_fabs(across) + __builtin_fabs(along);
      taps_[count_] = static_cast<int32_t>(first + begin);
      phi_[count_] = static_cast<A>((r - distance) * inverse);
      if (backward_) column_sign_[count_] = sign<A>(along);
      count_ += distance < r;
    }
#endif
    if (!backward_) return;
    const Vector<A> signs = splat(sign<A>(across));
    for (int64_t j = start; j < count_; j += kLanes<A>) store(row_sign_ + j, signs);
  }

#if LEVEL_BYTES == 64
  // The same for rows [row, end) of a point that reaches no more than eight columns.
  template <bool backward>
  void append_rows(const Axis& rows, int64_t row, int64_t end, const double* columns, int64_t first, int64_t width,
                   double q, double y, double r, double inverse) {
    const __m512d along = _mm512_sub_pd(_mm512_set1_pd(q), _mm512_loadu_pd(columns)), away = _mm512_abs_pd(along);
    const __m512d signs = signs_of(along), reach = _mm512_set1_pd(r), scale = _mm512_set1_pd(inverse);
    __m256i taps = eight_taps(first + row * width);
    int64_t count = count_;
    for (; row < end; ++row, taps = _mm256_add_epi32(taps, _mm256_set1_epi32(static_cast<int32_t>(width)))) {
      const double across = y - rows.at[row];
      const __m512d distance = _mm512_add_pd(_mm512_set1_pd(__builtin_fabs(across)), away);
      const __mmask8 near = _mm512_cmp_pd_mask(distance, reach, _CMP_LT_OQ);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(taps_ + count), _mm256_maskz_compress_epi32(near, taps));
      compress(phi_ + count, near, _mm512_mul_pd(_mm512_sub_pd(reach, distance), scale));
      if constexpr (backward) {
        compress(column_sign_ + count, near, signs);
        store(row_sign_ + count, splat(sign<A>(across)));
      }
      count += __builtin_popcount(near);
    }
    count_ = count;
  }

  // The whole list of point i of `spans`, filled up, where its rectangle is within kBox x kBox taps.
  template <bool backward>
  void append_box(const Axis& rows, const Axis& columns, const Spans& spans, int64_t i) {
    const __m512d zero = _mm512_setzero_pd(), r = _mm512_set1_pd(spans.r[i]), scale = _mm512_set1_pd(spans.inverse[i]);
    const __m512d four = _mm512_castpd256_pd512(_mm256_loadu_pd(rows.at + spans.row[i]));
    const __m512d above = _mm512_permutexvar_pd(_mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1), four);
    const __m512d below = _mm512_permutexvar_pd(_mm512_setr_epi64(2, 2, 2, 2, 3, 3, 3, 3), four);
    const __m512d y = _mm512_set1_pd(spans.y[i]), high = _mm512_sub_pd(y, above), low = _mm512_sub_pd(y, below);
    const __m512d at = _mm512_broadcast_f64x4(_mm256_loadu_pd(columns.at + spans.begin[i]));
    const __m512d along = _mm512_sub_pd(_mm512_set1_pd(spans.q[i]), at), away = _mm512_abs_pd(along);
    const __m512d far_high = _mm512_add_pd(_mm512_abs_pd(high), away);
    const __m512d far_low = _mm512_add_pd(_mm512_abs_pd(low), away);
    const __mmask16 near =
        both(_mm512_cmp_pd_mask(far_high, r, _CMP_LT_OQ), _mm512_cmp_pd_mask(far_low, r, _CMP_LT_OQ));
    const __m256 phi_high = _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_sub_pd(r, far_high), scale));
    const __m256 phi_low = _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_sub_pd(r, far_low), scale));
    const __m512i first = _mm512_set1_epi32(static_cast<int32_t>(spans.row[i] * columns.taps + spans.begin[i]));
    _mm512_storeu_si512(taps_ + count_, _mm512_mask_compress_epi32(beyond_, near, _mm512_add_epi32(first, box_)));
    store_near(phi_, near, _mm512_insertf32x8(_mm512_castps256_ps512(phi_high), phi_low, 1));
    if constexpr (backward) {
      const __mmask8 right = _mm512_cmp_pd_mask(along, zero, _CMP_GT_OQ);
      const __mmask8 left = _mm512_cmp_pd_mask(along, zero, _CMP_LT_OQ);
      store_near(column_sign_, near, one_signed(both(right, right), both(left, left)));
      const __mmask16 up = both(_mm512_cmp_pd_mask(high, zero, _CMP_GT_OQ), _mm512_cmp_pd_mask(low, zero, _CMP_GT_OQ));
      const __mmask16 down =
          both(_mm512_cmp_pd_mask(high, zero, _CMP_LT_OQ), _mm512_cmp_pd_mask(low, zero, _CMP_LT_OQ));
      store_near(row_sign_, near, one_signed(up, down));
    }
    count_ += (__builtin_popcount(near) + kStep - 1) / kStep * kStep;
  }
#endif

  // Fills up the list of a point with kStep different taps: additions to the same one would wait for each other.
  void finish(int32_t beyond) {
    for (int32_t k = 0; k < kStep; ++k) taps_[count_ + k] = beyond + k;
    __builtin_memset(phi_ + count_, 0, kStep * sizeof(A));
    if (backward_) {
      __builtin_memset(row_sign_ + count_, 0, kStep * sizeof(A));
      __builtin_memset(column_sign_ + count_, 0, kStep * sizeof(A));
    }
    count_ = (count_ + kStep - 1) / kStep * kStep;
  }

 private:
#if LEVEL_BYTES == 64
  void append_vector(const double* columns, int64_t first, double q, double across, double r, double inverse) {
    const __m512d along = _mm512_sub_pd(_mm512_set1_pd(q), _mm512_loadu_pd(columns));
    const __m512d distance = _mm512_add_pd(_mm512_set1_pd(across), _mm512_abs_pd(along));
    const __m512d phi = _mm512_mul_pd(_mm512_sub_pd(_mm512_set1_pd(r), distance), _mm512_set1_pd(inverse));
    const __mmask8 near = _mm512_cmp_pd_mask(distance, _mm512_set1_pd(r), _CMP_LT_OQ);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(taps_ + count_),
                        _mm256_maskz_compress_epi32(near, eight_taps(first)));
    compress(phi_ + count_, near, phi);
    if (backward_) compress(column_sign_ + count_, near, signs_of(along));
    count_ += __builtin_popcount(near);
  }
  static __m256i eight_taps(int64_t first) {
    return _mm256_add_epi32(_mm256_set1_epi32(static_cast<int32_t>(first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m512d signs_of(__m512d v) {
    const __mmask8 above = _mm512_cmp_pd_mask(v, _mm512_setzero_pd(), _CMP_GT_OQ);
    const __mmask8 below = _mm512_cmp_pd_mask(v, _mm512_setzero_pd(), _CMP_LT_OQ);
    return _mm512_mask_mov_pd(_mm512_maskz_mov_pd(above, _mm512_set1_pd(1)), below, _mm512_set1_pd(-1));
  }
  static void compress(double* out, __mmask8 kept, __m512d v) {
    _mm512_storeu_pd(out, _mm512_maskz_compress_pd(kept, v));
  }
  static void compress(float* out, __mmask8 kept, __m512d v) {
    _mm256_storeu_ps(out, _mm256_maskz_compress_ps(kept, _mm512_cvtpd_ps(v)));
  }
  static __mmask16 both(__mmask8 low, __mmask8 high) { return static_cast<__mmask16>(low | high << 8); }
  static __m512 one_signed(__mmask16 plus, __mmask16 minus) {
    return _mm512_mask_mov_ps(_mm512_maskz_mov_ps(plus, _mm512_set1_ps(1)), minus, _mm512_set1_ps(-1));
  }
  void store_near(float* out, __mmask16 near, __m512 v) const {
    _mm512_storeu_ps(out + count_, _mm512_maskz_compress_ps(near, v));
  }

  __m512i box_, beyond_;  // the taps of a box from its first one on, and those behind the last
#endif

  int32_t* taps_;
  A *phi_, *row_sign_, *column_sign_;
  bool backward_;
  int64_t count_ = 0;
};

// Whether a dense product of so many taps is quicker than a list with a share `density` of them: in cycles that were
// measured, of a list's touch 2.3 and a product's 0.7 for each vector of channels; the dense numbers cost 2 and 0.5
// once. In the backward pass lists were quicker at any density.
inline bool dense_pays(double density, int64_t vectors) {
  return static_cast<double>(vectors) * (2.3 * density - 0.7) > 2 * density + 0.5;
}

// phi[tap / 8][point][tap % 8]
template <class A>
inline void spread(const RasterizeParams& p, const Touches& touches) {
  const A* phi = static_cast<const A*>(touches.phi);
  A* dense = static_cast<A*>(touches.dense);
  __builtin_memset(dense, 0, dense_numbers(p) * sizeof(A));
  for (int64_t i = 0; i < p.points; ++i) {
    for (int64_t j = touches.starts[i]; j < touches.starts[i + 1]; ++j) {
      const int64_t tap = touches.taps[j];
      dense[(tap / kStep * p.points + i) * kStep + tap % kStep] = phi[j];
    }
  }
}

// Lists all touches, and what follows from them.
template <class T>
bool find_of(const RasterizeParams& p, const void* coords_, const void* radius_, bool backward, Touches& out) {
  using A = Sum<T>;
  const T *coords = static_cast<const T*>(coords_), *radius = static_cast<const T*>(radius_);
  const int64_t beyond = p.height * p.width;
  TouchList<A> list(p, out, backward);
  Spans spans;
  for (int64_t i = 0; i < p.points; ++i) {
    const int64_t k = i % kSpans;
    if (k == 0 && !measure_spans(p, out, coords + i * p.dims, radius + i, min(kSpans, p.points - i), spans))
      return false;
    out.starts[i] = list.count();
    int32_t row = spans.row[k], row_end = spans.row_end[k], begin = spans.begin[k], end = spans.end[k];
#if LEVEL_BYTES == 64
    if constexpr (sizeof(A) == sizeof(float)) {
      if (row_end - row <= kBox && end - begin <= kBox) {
        backward ? list.template append_box<true>(out.row, out.column, spans, k)
                 : list.template append_box<false>(out.row, out.column, spans, k);
        continue;
      }
    }
#endif
    const double q = spans.q[k], y = spans.y[k], r = spans.r[k], inverse = spans.inverse[k];
    const bool wide = end - begin > kStep;  // so that most of it may be too far away
#if LEVEL_BYTES == 64
    if (!wide) {
      const double* columns = out.column.at + begin;
      backward ? list.template append_rows<true>(out.row, row, row_end, columns, begin, p.width, q, y, r, inverse)
               : list.template append_rows<false>(out.row, row, row_end, columns, begin, p.width, q, y, r, inverse);
      row = row_end;
    }
#endif
    for (; row < row_end; ++row) {
      const double across = y - out.row.at[row];
      if (wide) near(out.column, q, r - __builtin_fabs(across), &begin, &end);
      list.append(out.column.at, begin, end, row * p.width, q, across, r, inverse);
    }
    list.finish(static_cast<int32_t>(beyond));
  }
  out.starts[p.points] = list.count();
  constexpr int64_t lanes = kLanes<A>;
  const int64_t count = list.count();
  const int32_t* taps = out.taps;
  uint8_t* live = out.live;
  __builtin_memset(live, 0, (beyond + kStep - 1) / lanes + 1);
  for (int64_t j = 0; j < count; ++j) live[static_cast<uint32_t>(taps[j]) / lanes] = 1;
  if (p.average) {
    A* share = static_cast<A*>(out.share);
    for (int64_t t = 0; t < beyond + kStep; ++t) share[t] = 0;
    for (int64_t j = 0; j < count; ++j) share[taps[j]] += 1;
    for (int64_t t = 0; t < beyond; ++t) share[t] = static_cast<A>(1 / (static_cast<double>(share[t]) + 1e-6));
  }
  const double density = static_cast<double>(count) / static_cast<double>(max(p.points * beyond, 1));
  if (backward || !dense_pays(density, (p.channels + lanes - 1) / lanes)) out.dense = nullptr;
  if (out.dense != nullptr) spread<A>(p, out);
  return true;
}

}  // namespace
}  // namespace smpconv
