// Every step of a column maps its state one to one, whatever the word, and its state depends on every word one to one:
// a change of a single word always shows. Columns do not wait for one another's multiplications, so that reading the
// values is what takes the time.
#include "cpu/checksum.h"

#include <cstring>

namespace csgconv {
namespace {

constexpr uint64_t kFactor = 0x9fb21c651e98df25;  // odd
constexpr uint64_t kStart = 0x9e3779b97f4a7c15;   // odd: columns with the same words at other places differ
constexpr int64_t kColumns = 8, kSteps = 16, kBlock = kColumns * kSteps * 8;
constexpr int64_t kAhead = 8192;  // bytes: the processor's own looking ahead ends with a page

uint64_t mixed(uint64_t h) {
  h = (h ^ h >> 32) * kFactor;
  h = (h ^ h >> 29) * kFactor;
  return h ^ h >> 32;
}

// The columns of the block number `index`.
uint64_t block_of(const char* data, int64_t index) {
  uint64_t state[kColumns];
  for (int64_t c = 0; c < kColumns; ++c) state[c] = kStart * static_cast<uint64_t>(index * kColumns + c + 1);
  for (int64_t step = 0; step < kSteps; ++step) {
    const char* row = data + step * kColumns * 8;
    __builtin_prefetch(row + kAhead);
    for (int64_t c = 0; c < kColumns; ++c) {
      uint64_t word;
      std::memcpy(&word, row + c * 8, 8);
      const uint64_t h = state[c] ^ word;
      state[c] = (h << 29 | h >> 35) * kFactor;
    }
  }
  uint64_t sum = 0;
  for (int64_t c = 0; c < kColumns; ++c) sum += mixed(state[c]);
  return sum;
}

}  // namespace

uint64_t checksum(uint64_t before, const void* data, int64_t bytes) {
  const char* values = static_cast<const char*>(data);
  const int64_t whole = bytes / kBlock, rest = bytes % kBlock;
  uint64_t sum = 0;
  for (int64_t block = 0; block < whole; ++block) sum += block_of(values + block * kBlock, block);
  if (rest > 0) {
    char last[kBlock] = {};
    std::memcpy(last, values + whole * kBlock, rest);
    sum += block_of(last, whole);
  }
  return mixed((before ^ sum) + kStart * static_cast<uint64_t>(bytes));
}

}  // namespace csgconv
