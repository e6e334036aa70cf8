// edit in shared/common/native/half.h
// float16 and bfloat16 as bits, converted in software: for the few numbers that no vector code touches.
#pragma once

#include <cstdint>

// Not leanconv itself, whose names are those of device code.
namespace leanconv::cpu {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

static inline float bits_to_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

static inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

static inline float widen(float value) { return value; }
static inline double widen(double value) { return value; }
static inline float widen(BFloat16 value) { return bits_to_float(static_cast<uint32_t>(value.bits) << 16); }

static inline float widen(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16, rest = value.bits & 0x7fff;
  if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);  // infinities and NaN
  // Exponent 15 above float's bias is undone by one exact multiplication, which also makes subnormals normal.
  return bits_to_float(sign | float_to_bits(bits_to_float(rest << 13) * 0x1p112f));
}

static inline void narrow(float value, float* out) { *out = value; }
static inline void narrow(double value, double* out) { *out = value; }

static inline void narrow(float value, BFloat16* out) {
  const uint32_t bits = float_to_bits(value);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  out->bits = static_cast<uint16_t>(nan ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline void narrow(float value, Half* out) {
  const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000;
  uint32_t rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) {
    rest = 0x7e00;
  } else if (rest >= 0x477ff000) {
    rest = 0x7c00;  // rounds beyond 65504
  } else if (rest < 0x38800000) {
    rest = float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000;  // subnormal: 0.5 has the spacing 2^-24
  } else {
    rest = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
  }
  out->bits = static_cast<uint16_t>(sign | rest);
}

template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};

}  // namespace leanconv::cpu
