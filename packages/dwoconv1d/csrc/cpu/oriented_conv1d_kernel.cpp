#include "cpu/oriented_conv1d_kernel.h"

#include <cstring>

namespace dwoconv1d {
namespace {

struct Half { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

inline float load(const float* p) { return *p; }
inline double load(const double* p) { return *p; }
inline float load(const BFloat16* p) {
  const uint32_t bits = static_cast<uint32_t>(p->bits) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline float load(const Half* p) {
  _Float16 h;
  std::memcpy(&h, p, 2);
  return static_cast<float>(h);
}
inline void store(float* p, float v) { *p = v; }
inline void store(double* p, double v) { *p = v; }
inline void store(Half* p, float v) {
  const _Float16 h = static_cast<_Float16>(v);
  std::memcpy(p, &h, 2);
}
inline void store(BFloat16* p, float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) {
    p->bits = static_cast<uint16_t>((bits >> 16) | 0x40);
  } else {
    p->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}
template <class T> struct Accumulator { using type = float; };
template <> struct Accumulator<double> { using type = double; };

template <class F>
void run(ParallelFor parallel, int64_t count, int64_t grain, const F& f) {
  parallel(count, grain, [](const void* g, int64_t b, int64_t e) { for (; b < e; ++b) (*static_cast<const F*>(g))(b); }, &f);
}

template <class F>
void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float32: return f(float());
    case DType::float64: return f(double());
    case DType::float16: return f(Half());
    case DType::bfloat16: return f(BFloat16());
  }
}

}  // namespace

void forward(const Params& a, const void* x_, Strides xs, const void* w_, const void* b_, void* y_, Strides ys, leanconv::Isa,
             ParallelFor parallel) {
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    using A = typename Accumulator<T>::type;
    run(parallel, a.batch * a.channels, 1, [&](int64_t i) {
      const int64_t n = i / a.channels, c = i % a.channels;
      const T* x = static_cast<const T*>(x_) + n * xs.n + c * xs.c;
      T* y = static_cast<T*>(y_) + n * ys.n + c * ys.c;
      for (int64_t p = 0; p < a.out_height; ++p)
        for (int64_t q = 0; q < a.out_width; ++q) {
          A sum = b_ ? load(static_cast<const T*>(b_) + c) : A(0);
          for (int64_t s = 0; s < a.taps; ++s) {
            const int64_t h = p * a.stride_h + a.offsets[c * a.taps + s];
            const int64_t w = q * a.stride_w + a.offsets[(a.channels + c) * a.taps + s];
            if (h < 0 || h >= a.height || w < 0 || w >= a.width) continue;
            const A tap = load(static_cast<const T*>(w_) + c * a.taps + s) + A(a.residual && s == a.taps / 2);
            sum += tap * load(x + h * xs.h + w * xs.w);
          }
          store(y + p * ys.h + q * ys.w, sum);
        }
    });
  });
}

void grad_input(const Params& a, const void* g_, Strides gs, const void* w_, void* x_, Strides xs, leanconv::Isa,
                ParallelFor parallel) {
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    using A = typename Accumulator<T>::type;
    run(parallel, a.batch * a.channels, 1, [&](int64_t i) {
      const int64_t n = i / a.channels, c = i % a.channels;
      const T* g = static_cast<const T*>(g_) + n * gs.n + c * gs.c;
      T* x = static_cast<T*>(x_) + n * xs.n + c * xs.c;
      for (int64_t h = 0; h < a.height; ++h)
        for (int64_t w = 0; w < a.width; ++w) {
          A sum = 0;
          for (int64_t s = 0; s < a.taps; ++s) {
            const int64_t p = h - a.offsets[c * a.taps + s], q = w - a.offsets[(a.channels + c) * a.taps + s];
            if (p < 0 || q < 0 || p % a.stride_h || q % a.stride_w) continue;
            if (p / a.stride_h >= a.out_height || q / a.stride_w >= a.out_width) continue;
            const A tap = load(static_cast<const T*>(w_) + c * a.taps + s) + A(a.residual && s == a.taps / 2);
            sum += tap * load(g + p / a.stride_h * gs.h + q / a.stride_w * gs.w);
          }
          store(x + h * xs.h + w * xs.w, sum);
        }
    });
  });
}

void grad_weight(const Params& a, const void* g_, Strides gs, const void* x_, Strides xs, void* gw_, void* gb_, leanconv::Isa,
                 ParallelFor parallel) {
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    using A = typename Accumulator<T>::type;
    run(parallel, a.channels, 1, [&](int64_t c) {
      for (int64_t s = -1; s < a.taps; ++s) {
        const int64_t dy = s < 0 ? 0 : a.offsets[c * a.taps + s], dx = s < 0 ? 0 : a.offsets[(a.channels + c) * a.taps + s];
        A total = 0;
        for (int64_t n = 0; n < a.batch; ++n)
          for (int64_t p = 0; p < a.out_height; ++p) {
            const int64_t h = p * a.stride_h + dy;
            if (h < 0 || h >= a.height) continue;
            A sum = 0;
            for (int64_t q = 0; q < a.out_width; ++q) {
              const int64_t w = q * a.stride_w + dx;
              if (w < 0 || w >= a.width) continue;
              const A g = load(static_cast<const T*>(g_) + n * gs.n + c * gs.c + p * gs.h + q * gs.w);
              sum += s < 0 ? g : g * load(static_cast<const T*>(x_) + n * xs.n + c * xs.c + h * xs.h + w * xs.w);
            }
            total += sum;
          }
        store(s < 0 ? static_cast<T*>(gb_) + c : static_cast<T*>(gw_) + c * a.taps + s, total);
      }
    });
  });
}

}  // namespace dwoconv1d
