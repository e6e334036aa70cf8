#include "cpu/depthwise_plan.h"

#include <algorithm>

namespace pathconv::depthwise {
namespace {

constexpr int64_t kScratchBytes = 1 << 15;  // of a packed strip: stays in the first cache

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

}  // namespace

Plan::Plan(const Params& params, Pass pass, Lanes lanes, Strides source, Strides out, int64_t vector_bytes)
    : params_(params), transposed_(pass == Pass::grad_input), groups_(lanes == Lanes::channels ? 1 : params.channels) {
  number_ = params.dtype == DType::float64 ? 8 : 4;
  full_vector_ = vector_bytes / static_cast<int64_t>(number_);
  vector_ = lanes == Lanes::channels ? full_vector_ : 1;
  Geometry& g = geometry_;
  g.lanes = lanes;
  g.out_channels = transposed_ ? params.channels : params.channels * params.multiplier;
  g.planes = transposed_ ? params.multiplier : 1;
  g.share = transposed_ ? 1 : params.multiplier;
  g.stride = transposed_ ? 1 : params.stride;
  g.out_step = transposed_ ? params.stride : 1;
  g.source_length = transposed_ ? params.out_length : params.length;
  g.source = source;
  g.out = out;
  const bool same_type = params.dtype == DType::float32 || params.dtype == DType::float64;
  g.direct = lanes == Lanes::channels && same_type && params.multiplier == 1 && g.out_channels >= full_vector_;
  add_lines(pass);
  measure(pass);
  g.line_count = static_cast<int64_t>(lines_.size());
  g.lines = lines_.data();
  g.packed = packed_.data();
  g.plain = plain_.data();
}

// Positions of x that are equal modulo the stride are read by the same taps: each such class is a line of the input
// gradient, whose taps reach neighbouring outputs in reverse order.
void Plan::add_lines(Pass pass) {
  const Params& a = params_;
  Geometry& g = geometry_;
  if (pass != Pass::grad_input) {
    lines_.push_back({0, a.out_length, 0, a.taps, 0});
    for (int64_t k = 0; k < a.taps; ++k) taps_.push_back(k);
    g.first = -a.padding;
    g.span = a.taps;
    g.weights = a.taps;
    length_ = a.out_length;
    return;
  }
  int64_t first = INT64_MAX, last = INT64_MIN;
  for (int64_t r = 0; r < std::min(a.stride, a.length); ++r) {
    const int64_t lowest = (r + a.padding) % a.stride,
                  count = lowest < a.taps ? (a.taps - 1 - lowest) / a.stride + 1 : 0;
    const int64_t shift = (r + a.padding - lowest) / a.stride - (count - 1);
    lines_.push_back({r, ceil_div(a.length - r, a.stride), shift, count, static_cast<int64_t>(taps_.size())});
    for (int64_t m = 0; m < g.planes; ++m)
      for (int64_t j = 0; j < count; ++j) taps_.push_back(m * a.taps + lowest + (count - 1 - j) * a.stride);
    if (count == 0) continue;
    first = std::min(first, shift);
    last = std::max(last, shift + count);
  }
  g.weights = static_cast<int64_t>(taps_.size());  // not all where the stride steps over the whole input
  g.first = first < last ? first : 0;
  g.span = first < last ? last - first : 1;
  for (Line& line : lines_) line.shift = line.taps ? line.shift - g.first : 0;
  length_ = ceil_div(a.length, a.stride);
}

void Plan::measure(Pass pass) {
  Geometry& g = geometry_;
  const bool channels = g.lanes == Lanes::channels;
  g.phases = channels ? 1 : std::min(g.stride, g.span);
  const auto columns = [&] {
    return channels ? (g.strip - 1) * g.stride + g.span
                    : ceil_div(g.strip, full_vector_) * full_vector_ + (g.span - 1) / g.stride + full_vector_;
  };
  const auto bytes = [&] { return (g.planes * g.phases * columns() + g.strip * g.out_step) * vector_ * number_; };
  // A strip that is read in place costs nothing to begin; one that is packed reads the margins between strips twice.
  g.strip = channels ? (g.direct && pass != Pass::grad_weight ? 8 : 32) : 2048;
  while (g.strip > 1 && g.strip * g.stride > g.span && bytes() > static_cast<size_t>(kScratchBytes)) g.strip /= 2;
  g.columns = columns();
  tile_ = channels ? std::max(g.strip, int64_t{128}) : g.strip;
  if (!channels) some_ = std::clamp<int64_t>(g.strip / std::max<int64_t>(1, length_), 1, std::max<int64_t>(1, groups_));

  const int64_t unit = channels ? full_vector_ : 1;
  packed_.resize(g.weights);
  plain_.resize(g.weights);
  for (const Line& line : lines_) {
    for (int64_t i = 0; i < line.taps * g.planes; ++i) {
      const int64_t plane = i / line.taps, j = i % line.taps, phase = channels ? 0 : j % g.stride;
      const int64_t column = channels ? j : j / g.stride;
      packed_[line.weights + i] = ((plane * g.phases + phase) * g.columns + column) * unit;
      plain_[line.weights + i] = j * g.source.l;
    }
  }
}

int64_t Plan::grain() const {
  const int64_t channels = geometry_.out_channels / groups_ * some_,
                outputs = std::min(tile_, length_) * geometry_.out_step;
  return std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, channels * outputs));
}

size_t Plan::scratch_bytes() const {
  const Geometry& g = geometry_;
  const int64_t woven =
      g.lanes == Lanes::positions && g.out_step > 1 ? g.line_count * ceil_div(g.strip, full_vector_) * full_vector_ : 0;
  const int64_t sums = (g.weights + full_vector_ + 1) * (full_vector_ + 1);  // of a strip of positions
  return (g.planes * g.phases * g.columns * vector_ + woven + sums) * number_ + 64;
}

void Plan::pack_weights(const void* weight, void* packed) const {
  const int64_t channels = geometry_.out_channels, count = geometry_.weights, vector = vector_;
  const int64_t row = params_.taps * geometry_.planes, *taps = taps_.data();
  with_type(params_.dtype, [&](auto type) {
    using T = decltype(type);
    using A = typename AccumulatorOf<T>::type;
    const T* in = static_cast<const T*>(weight);
    A* out = static_cast<A*>(packed);
    if (vector == 1) {
      for (int64_t c = 0; c < channels; ++c, in += row, out += count)
        for (int64_t t = 0; t < count; ++t) out[t] = widen(in[taps[t]]);
      return;
    }
    if (channels < vector) std::fill_n(out, count * vector, A(0));
    for (int64_t b = 0; b < blocks(); ++b, out += count * vector) {
      const int64_t first = block_start(b, channels, vector), lanes = std::min(vector, channels - first);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const T* of_lane = in + (first + lane) * row;
        for (int64_t t = 0; t < count; ++t) out[t * vector + lane] = widen(of_lane[taps[t]]);
      }
    }
  });
}

std::vector<unsigned char> Plan::biases(const void* bias) const {
  std::vector<unsigned char> bytes((geometry_.out_channels + full_vector_) * number_);
  if (bias == nullptr) return bytes;
  with_type(params_.dtype, [&](auto type) {
    using A = typename AccumulatorOf<decltype(type)>::type;
    for (int64_t c = 0; c < geometry_.out_channels; ++c)
      reinterpret_cast<A*>(bytes.data())[c] = widen(static_cast<const decltype(type)*>(bias)[c]);
  });
  return bytes;
}

}  // namespace pathconv::depthwise
