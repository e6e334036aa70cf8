// Plans and launches crop and uncrop. No torch header: compiles in seconds per architecture.
#include "common/host.cuh"
#include "cuda/crop_kernel.cuh"
#include "cuda/crop_kernel.h"

namespace csgconv::copies {
namespace {

using leanconv::ceil_ratio;
using leanconv::launch;

constexpr int64_t kMaxCount = 1 << 30;

struct Launch {
  Params params;
  int64_t blocks;
};

// Adds a part to the last launch, or to a new one where that is full.
void add(std::vector<Launch>* launches, const Copy& copy, Part part) {
  if (part.count == 0) return;
  if (launches->empty() || launches->back().params.parts == kParts)
    launches->push_back({{copy.from, copy.to, 0, {}}, 0});
  Launch& last = launches->back();
  const int64_t lanes = 16 / copy.bytes;
  const int64_t offsets = part.from | part.to | part.count | part.row | part.width;
  const int64_t addresses = reinterpret_cast<int64_t>(copy.from) | reinterpret_cast<int64_t>(copy.to);
  part.vectors = offsets % lanes == 0 && addresses % 16 == 0;
  part.block = static_cast<int>(last.blocks);
  last.blocks += ceil_ratio(part.count, kThreads * kMoves * (part.vectors ? lanes : 1));
  last.params.part[last.params.parts++] = part;
}

Part part_of(const Layer& l) {
  return {l.slices,
          l.kernels,
          l.outputs * l.row,
          static_cast<int>(l.outputs),
          static_cast<int>(l.row),
          static_cast<int>(l.width),
          static_cast<int>(l.down),
          static_cast<int>(l.across),
          0,
          0};
}

std::vector<Launch> plan_crop(const std::vector<Layer>& layers, const Copy& copy) {
  std::vector<Launch> launches;
  for (const Layer& layer : layers) add(&launches, copy, part_of(layer));
  return launches;
}

std::vector<Launch> plan_uncrop(const std::vector<Layer>& layers, const Copy& copy) {
  std::vector<Launch> launches;
  const int64_t head = layers.empty() ? copy.elements : layers.front().slices;
  add(&launches, copy, {0, 0, head, 0, 16, 16, 1, 1, 0, 0});  // zeros
  for (const Layer& layer : layers) {
    Part part = part_of(layer);
    std::swap(part.from, part.to);
    part.count = layer.room;
    add(&launches, copy, part);
  }
  return launches;
}

void run(const std::vector<Launch>& launches, void (*kernel)(Params), void* stream) {
  for (const Launch& one : launches) launch(kernel, one.params, one.blocks, kThreads, 0, stream, kPackage);
}

}  // namespace

bool representable(const std::vector<Layer>& layers) {
  return std::all_of(layers.begin(), layers.end(), [](const Layer& l) {
    return std::max({l.outputs, l.row, l.width, l.down, l.across}) <= kMaxCount;
  });
}

// Elements are moved, not read: only their size matters.
void launch_crop(const std::vector<Layer>& layers, const Copy& copy, void* stream) {
  const auto kernel = copy.bytes == 8   ? crop<unsigned long long>
                      : copy.bytes == 4 ? crop<unsigned>
                                        : crop<unsigned short>;
  run(plan_crop(layers, copy), kernel, stream);
}

void launch_uncrop(const std::vector<Layer>& layers, const Copy& copy, void* stream) {
  const auto kernel = copy.bytes == 8   ? uncrop<unsigned long long>
                      : copy.bytes == 4 ? uncrop<unsigned>
                                        : uncrop<unsigned short>;
  run(plan_uncrop(layers, copy), kernel, stream);
}

std::string compiled_archs() { return leanconv::compiled_archs(); }

}  // namespace csgconv::copies
