// Runs are copied as bytes: the C library's memcpy knows the processor. A thread's share are the runs that begin in
// its piece of the slices.
#include "cpu/crop_kernel.h"

#include <algorithm>
#include <cstring>

namespace csgconv {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements that are worth a thread

struct Job {
  const Copy& copy;
  const char* from;
  char* to;
};

// visit(place in the slices, place in the kernels, elements) for every run of a layer that begins in [begin, end);
// those right of the kernel or below it hold no element.
template <class Visit>
void each_run(const Layer& l, int64_t begin, int64_t end, Visit visit) {
  const int64_t first = begin <= l.slices ? 0 : (begin - l.slices + l.width - 1) / l.width;
  const int64_t last = std::min(l.runs, (end - l.slices + l.width - 1) / l.width);
  if (first >= last) return;
  if (l.contiguous()) {
    visit(l.slices + first * l.width, l.kernels + first * l.row, (last - first) * l.width);
    return;
  }
  int64_t inside = first % l.down, across = first / l.down % l.across, above = first / l.down / l.across * l.down;
  for (int64_t run = first; run < last; ++run) {
    const int64_t output = above + inside, column = across * l.width;
    const int64_t count = output < l.outputs ? std::min(l.row - column, l.width) : 0;
    visit(l.slices + run * l.width, count > 0 ? l.kernels + output * l.row + column : 0, count);
    if (++inside < l.down) continue;
    inside = 0;
    if (++across < l.across) continue;
    across = 0;
    above += l.down;
  }
}

// body(layer) for those with room in [begin, end).
template <class Body>
void each_layer(const std::vector<Layer>& layers, int64_t begin, int64_t end, Body body) {
  for (const Layer& layer : layers) {
    if (layer.slices >= end) return;
    if (layer.slices + layer.room > begin) body(layer);
  }
}

void kernels_piece(const void* context, int64_t begin, int64_t end) {
  const Job& job = *static_cast<const Job*>(context);
  const int64_t bytes = job.copy.bytes;
  each_layer(job.copy.layers, begin, end, [&](const Layer& layer) {
    each_run(layer, begin, end, [&](int64_t slices, int64_t kernels, int64_t count) {
      std::memcpy(job.to + kernels * bytes, job.from + slices * bytes, count * bytes);
    });
  });
}

void slices_piece(const void* context, int64_t begin, int64_t end) {
  const Job& job = *static_cast<const Job*>(context);
  const int64_t bytes = job.copy.bytes;
  const auto clear = [&](int64_t from, int64_t to) {
    if (from < to) std::memset(job.to + from * bytes, 0, (to - from) * bytes);
  };
  const auto& layers = job.copy.layers;
  clear(begin, std::min(end, layers.empty() ? end : layers.front().slices));
  each_layer(layers, begin, end, [&](const Layer& layer) {
    const int64_t stop = layer.slices + layer.room, kernel = std::min(stop, layer.slices + layer.runs * layer.width);
    each_run(layer, begin, end, [&](int64_t slices, int64_t kernels, int64_t count) {
      std::memcpy(job.to + slices * bytes, job.from + kernels * bytes, count * bytes);
      if (count < layer.width) clear(slices + count, std::min(slices + layer.width, stop));
    });
    clear(std::max(begin, kernel), std::min(end, stop));
  });
}

}  // namespace

void copy_kernels(const Copy& copy, const void* slices, void* kernels) {
  const Job job = {copy, static_cast<const char*>(slices), static_cast<char*>(kernels)};
  copy.parallel_for(copy.elements, kGrain, kernels_piece, &job);
}

void copy_slices(const Copy& copy, const void* kernels, void* slices) {
  const Job job = {copy, static_cast<const char*>(kernels), static_cast<char*>(slices)};
  copy.parallel_for(copy.elements, kGrain, slices_piece, &job);
}

}  // namespace csgconv
