// edit in shared/common/native/scalar.cuh
// Scalars of device code and what it needs beside them: no host header, so nvcc, NVRTC and tests/emulator all read
// this.
#pragma once

namespace leanconv {

// 16-bit floats by their bits: cuda_fp16.h is not everywhere NVRTC runs.
struct Half {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

// Sums run in float32, those of float64 in float64.
template <typename T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }
__device__ inline float widen(BFloat16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
__device__ inline float widen(Half value) {
#ifdef LEANCONV_EMULATOR
  return emulator_half_to_float(value.bits);
#else
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#endif
}

// To the nearest value, ties to even.
template <typename T>
__device__ T narrow(Accumulator<T> value) {
  return value;
}
template <>
__device__ inline Half narrow<Half>(float value) {
#ifdef LEANCONV_EMULATOR
  return {emulator_float_to_half(value)};
#else
  Half result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#endif
}
template <>
__device__ inline BFloat16 narrow<BFloat16>(float value) {  // by bits: the instruction starts at sm_80
  const unsigned bits = __float_as_uint(value);
  if (value != value) return {0x7fff};
  return {static_cast<unsigned short>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

__device__ inline int minimum(int a, int b) { return a < b ? a : b; }
__device__ inline int maximum(int a, int b) { return a > b ? a : b; }
__device__ inline long long minimum(long long a, long long b) { return a < b ? a : b; }
__device__ inline long long maximum(long long a, long long b) { return a > b ? a : b; }
__device__ inline long long ceil_div(long long a, long long b) { return (a + b - 1) / b; }

// Quotients by a divisor known only at run time, for dividends below 2^32 / divisor: a multiplication instead of ~20
// instructions.
struct Divider {
  unsigned divisor, magic;

  __device__ explicit Divider(unsigned d) : divisor(d), magic(0xffffffffu / d + 1) {}  // 0 for d = 1
  __device__ int operator()(int value) const {
    return divisor == 1 ? value : static_cast<int>(__umulhi(static_cast<unsigned>(value), magic));
  }
};

// The block's dynamic shared memory, 16-byte aligned: the only shared memory our kernels use.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  return shared_memory;
}

}  // namespace leanconv
