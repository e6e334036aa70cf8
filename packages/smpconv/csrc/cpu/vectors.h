// Uninitialised vectors of a level, aligned to cache lines.
#pragma once

#include <cstdint>
#include <memory>

namespace smpconv {

class Vectors {
 public:
  Vectors(int64_t count, int64_t bytes) : memory_(new char[count * bytes + 64]), bytes_(bytes) {}
  char* at(int64_t i) const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    return memory_.get() + (64 - address % 64) % 64 + i * bytes_;
  }

 private:
  std::unique_ptr<char[]> memory_;
  int64_t bytes_;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace smpconv
