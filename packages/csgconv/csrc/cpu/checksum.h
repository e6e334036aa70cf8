// A checksum of values: plain C++, no torch types.
#pragma once

#include <cstdint>

namespace csgconv {

// Of `bytes` at `data`, going on from that of the values in front of them. `reference.checksum` has the formula.
uint64_t checksum(uint64_t before, const void* data, int64_t bytes);

}  // namespace csgconv
