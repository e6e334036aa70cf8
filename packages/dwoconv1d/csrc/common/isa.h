// edit in shared/common/native/isa.h
// Which instruction set the CPU kernels run on: found once at run time, and capped on request so that every level can
// be tested.
#pragma once

#include <cstdlib>
#include <cstring>

namespace leanconv {

enum class Isa { baseline, avx2, avx512 };

static constexpr const char* kIsaNames[] = {"baseline", "avx2", "avx512"};

// Look a level up by name; false when there is no such level.
static inline bool parse_isa(const char* name, Isa* isa) {
  for (int i = 0; i < 3; ++i) {
    if (std::strcmp(name, kIsaNames[i]) == 0) {
      *isa = static_cast<Isa>(i);
      return true;
    }
  }
  return false;
}

// The highest level this processor and its operating system support.
static inline Isa detect_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (avx2) return Isa::avx2;
#endif
  return Isa::baseline;
}

// The level to start with: what the processor has, capped by the environment variable `variable`.
static inline Isa initial_isa(const char* variable) {
  const Isa found = detect_isa();
  Isa cap = found;
  const char* name = std::getenv(variable);
  if (name != nullptr) parse_isa(name, &cap);
  return cap < found ? cap : found;
}

// Whether oneDNN is taken for quicker than MKL at float32 matrix products: on an AMD EPYC with AVX-512 (family 26) it
// took half the time; no other processor that Intel did not make was tried.
static inline bool mkl_is_slow() {
#if defined(__x86_64__)
  return detect_isa() == Isa::avx512 && !__builtin_cpu_is("intel");
#else
  return false;
#endif
}

}  // namespace leanconv
