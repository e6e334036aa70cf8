#include "cpu/depthwise_kernel.h"

#include <algorithm>

#include "cpu/vectors.h"

namespace smpconv {
namespace {

constexpr int64_t kCacheBytes = 1 << 20;  // of packed rows that one task works on

const void* at(const void* data, const Strides& s, int64_t n, int64_t c, int64_t bytes) {
  return static_cast<const char*>(data) + (n * s.n + c * s.c) * bytes;
}
void* at(void* data, const Strides& s, int64_t n, int64_t c, int64_t bytes) {
  return static_cast<char*>(data) + (n * s.n + c * s.c) * bytes;
}

// Rows of a band: as many as the cache holds beside those around them, but not so few that these are most of the work.
int64_t band_rows(const Params& p, int64_t bytes) {
  const int64_t rows = kCacheBytes / (2 * p.width * bytes) - p.kernel_h / 2;
  return std::min(p.height, std::max(rows, p.kernel_h));
}

}  // namespace

void depthwise_forward(const Params& p, const void* in, const Strides& in_strides, const void* weight, const void* bias,
                       bool turned, void* out, const Strides& out_strides, const Place& place) {
  const DepthwiseLevel& level = place.level.depthwise;
  if (p.batch == 0 || p.channels == 0 || p.height == 0 || p.width == 0) return;
  const int64_t lanes = level.bytes / leanconv::sum_bytes_of(p.dtype), bytes = leanconv::bytes_of(p.dtype);
  const int64_t groups = ceil_div(p.channels, lanes), taps = p.kernel_h * p.kernel_w;
  const int64_t wanted = std::min(p.height, ceil_div(place.threads, groups * p.batch));
  const int64_t rows = std::min(band_rows(p, level.bytes), ceil_div(p.height, wanted));
  const int64_t bands = ceil_div(p.height, rows);
  run(place, groups * p.batch * bands, rows * p.width * taps * lanes, [&](int64_t begin, int64_t end) {
    const Vectors weights(taps + 1, level.bytes), scratch(level.conv_scratch(p, rows), level.bytes);
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / (p.batch * bands), n = i / bands % p.batch, y = i % bands * rows, c = group * lanes;
      ConvTask task;
      task.channels = std::min(lanes, p.channels - c);
      if (packed != group) {
        level.pack_weight(p, static_cast<const char*>(weight) + c * taps * bytes, task.channels, turned, weights.at(0));
        if (bias != nullptr)
          level.pack_bias(p, static_cast<const char*>(bias) + c * bytes, task.channels, weights.at(taps));
        packed = group;
      }
      task.in = at(in, in_strides, n, c, bytes);
      task.in_strides = in_strides;
      task.out = at(out, out_strides, n, c, bytes);
      task.out_strides = out_strides;
      task.weight = weights.at(0);
      task.bias = bias == nullptr ? nullptr : weights.at(taps);
      task.begin = y;
      task.end = std::min(p.height, y + rows);
      task.scratch = scratch.at(0);
      level.conv(p, task);
    }
  });
}

void depthwise_grad_weight(const Params& p, const void* grad, const Strides& grad_strides, const void* in,
                           const Strides& in_strides, void* grad_weight, void* grad_bias, const Place& place) {
  const DepthwiseLevel& level = place.level.depthwise;
  if (p.channels == 0) return;
  const int64_t lanes = level.bytes / leanconv::sum_bytes_of(p.dtype), bytes = leanconv::bytes_of(p.dtype);
  const int64_t groups = ceil_div(p.channels, lanes), taps = p.kernel_h * p.kernel_w;
  const int64_t rows = p.width == 0 ? p.height : band_rows(p, level.bytes);
  const int64_t part = ceil_div(p.kernel_h, std::min(p.kernel_h, ceil_div(place.threads, groups)));
  const int64_t parts = ceil_div(p.kernel_h, part);
  const int64_t cost = p.batch * p.height * p.width * part * p.kernel_w * lanes;
  run(place, groups * parts, cost, [&](int64_t begin, int64_t end) {
    const int64_t sums_size = part * level.sum_row(p);
    const Vectors sums(sums_size + 1, level.bytes), scratch(level.grad_scratch(p, rows, part), level.bytes);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / parts, c = group * lanes;
      GradTask task;
      task.grad_strides = grad_strides;
      task.in_strides = in_strides;
      task.channels = std::min(lanes, p.channels - c);
      task.tap_begin = i % parts * part;
      task.tap_end = std::min(p.kernel_h, task.tap_begin + part);
      task.sums = sums.at(0);
      task.bias_sums = task.tap_begin == 0 ? sums.at(sums_size) : nullptr;
      task.scratch = scratch.at(0);
      std::fill_n(sums.at(0), (sums_size + 1) * level.bytes, char{0});
      for (int64_t n = 0; n < p.batch && p.width > 0; ++n) {
        task.grad = at(grad, grad_strides, n, c, bytes);
        task.in = at(in, in_strides, n, c, bytes);
        for (task.begin = 0; task.begin < p.height; task.begin += rows) {
          task.end = std::min(p.height, task.begin + rows);
          level.grad(p, task);
        }
      }
      level.unpack_sums(p, sums.at(0), task.tap_begin, task.tap_end, task.channels,
                        static_cast<char*>(grad_weight) + c * taps * bytes);
      if (task.bias_sums != nullptr)
        level.unpack_bias(p, task.bias_sums, task.channels, static_cast<char*>(grad_bias) + c * bytes);
    }
  });
}

}  // namespace smpconv
