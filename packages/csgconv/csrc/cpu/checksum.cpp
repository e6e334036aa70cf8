// Words go in 64 columns: four vectors of 64 bytes on AVX-512, so that none waits for its own multiplication and
// reading the values is what takes the time. Every step of a column maps its state one to one, whatever the word, and
// its state depends on every word one to one: a change of a single word always shows.
#include "cpu/checksum.h"

#include <cstring>

#include "common/isa.h"

namespace csgconv {
namespace {

constexpr uint32_t kFactor = 0x9e3779b1, kMix1 = 0x85ebca6b, kMix2 = 0xc2b2ae35;  // odd
constexpr uint64_t kLast = 0x9fb21c651e98df25;
constexpr int kLanes = 16, kVectors = 4, kSteps = 64;
constexpr int64_t kRow = kVectors * kLanes * 4, kBlock = kRow * kSteps;
constexpr int64_t kAhead = 4096;  // bytes: the processor's own looking ahead ends with a page

typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef uint64_t Sums __attribute__((vector_size(kLanes * 4)));

uint64_t mixed(uint64_t h) {
  h = (h ^ h >> 32) * kLast;
  h = (h ^ h >> 29) * kLast;
  return h ^ h >> 32;
}

// The sum over all blocks, of which the last may be in another place.
__attribute__((always_inline)) inline uint64_t sum_of(const char* data, int64_t blocks, const char* last) {
  Words number;  // of each column of a vector, from 1
  for (int lane = 0; lane < kLanes; ++lane) number[lane] = lane + 1;
  Sums sums = {};
  const int64_t count = blocks + (last != nullptr);
  for (int64_t block = 0; block < count; ++block) {
    const char* values = block < blocks ? data + block * kBlock : last;
    Words state[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      state[v] = number * kFactor;
      number += kLanes;
    }
    for (int step = 0; step < kSteps; ++step) {
      for (int v = 0; v < kVectors; ++v) {
        const char* at = values + step * kRow + v * kLanes * 4;
        __builtin_prefetch(at + kAhead);
        Words word;
        std::memcpy(&word, at, sizeof(word));
        const Words h = state[v] ^ word;
        state[v] = (h ^ h >> 15) * kFactor;
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      Words h = state[v];
      h = (h ^ h >> 16) * kMix1;
      h = (h ^ h >> 13) * kMix2;
      h ^= h >> 16;
      Sums pairs;
      std::memcpy(&pairs, &h, sizeof(pairs));
      sums += (pairs & 0xffffffff) + (pairs >> 32);
    }
  }
  uint64_t sum = 0;
  for (int lane = 0; lane < kLanes / 2; ++lane) sum += sums[lane];
  return sum;
}

uint64_t sum_baseline(const char* data, int64_t blocks, const char* last) { return sum_of(data, blocks, last); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t sum_avx2(const char* data, int64_t blocks, const char* last) {
  return sum_of(data, blocks, last);
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) uint64_t sum_avx512(const char* data, int64_t blocks,
                                                                                  const char* last) {
  return sum_of(data, blocks, last);
}
#endif

using Sum = uint64_t (*)(const char*, int64_t, const char*);

Sum best() {
#if defined(__x86_64__)
  const leanconv::Isa isa = leanconv::initial_isa("CSGCONV_CPU_LEVEL");
  if (isa == leanconv::Isa::avx512) return sum_avx512;
  if (isa == leanconv::Isa::avx2) return sum_avx2;
#endif
  return sum_baseline;
}

const Sum sum_best = best();

}  // namespace

uint64_t checksum(uint64_t before, const void* data, int64_t bytes) {
  const char* values = static_cast<const char*>(data);
  const int64_t whole = bytes / kBlock, rest = bytes % kBlock;
  uint64_t sum = 0;
  if (rest > 0) {
    char last[kBlock] = {};
    std::memcpy(last, values + whole * kBlock, rest);
    sum = sum_best(values, whole, last);
  } else {
    sum = sum_best(values, whole, nullptr);
  }
  return mixed((before ^ sum) + kLast * static_cast<uint64_t>(bytes));
}

}  // namespace csgconv
