// What is worked out once per call: which outputs read which positions, how weights lie, and how large strips may be.
#pragma once

#include <vector>

#include "cpu/depthwise_kernel.h"

namespace pathconv::depthwise {

class Plan {
 public:
  enum class Pass { forward, grad_input, grad_weight };
  // `out` is of y, grad_x or grad.
  Plan(const Params& params, Pass pass, Lanes lanes, Strides source, Strides out, int64_t vector_bytes);
  Plan(const Plan&) = delete;  // the geometry points into it

  const Geometry& geometry() const { return geometry_; }
  // Pieces of a sample: of `tile` outputs per line, and of a few groups of channels for lanes of positions.
  int64_t units() const { return (groups_ + some_ - 1) / some_ * tiles(); }
  int64_t tiles() const { return (length_ + tile_ - 1) / tile_; }
  int64_t groups() const { return groups_; }
  int64_t some_groups() const { return some_; }
  int64_t tile() const { return tile_; }
  int64_t length() const { return length_; }  // outputs of the longest line
  int64_t grain() const;                      // units that are worth a thread
  int64_t vector() const { return vector_; }  // lanes of a block; 1 for lanes of positions
  int64_t blocks() const { return blocks_of(geometry_.out_channels, vector_); }
  size_t number() const { return number_; }  // bytes of an accumulator
  size_t scratch_bytes() const;

  // The weights of one sample, (M * C, K), as the kernels read them: blocks() * Geometry::weights * vector() numbers.
  void pack_weights(const void* weight, void* out) const;
  // (channels,) numbers, zeros for null, with room for a whole vector.
  std::vector<unsigned char> biases(const void* bias) const;

 private:
  void add_lines(Pass pass);
  void measure(Pass pass);

  Params params_;
  bool transposed_;
  int64_t full_vector_, vector_, groups_, some_ = 1, length_ = 0, tile_;
  size_t number_;
  std::vector<Line> lines_;
  std::vector<int64_t> taps_;  // of params_.weight, as m * K + k, for every weight of an output channel
  std::vector<int64_t> packed_, plain_;
  Geometry geometry_;
};

// Calls f with a number of the dtype.
template <class F>
auto with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float64: return f(double());
    case DType::float16: return f(Half());
    case DType::bfloat16: return f(BFloat16());
    default: return f(float());
  }
}

}  // namespace pathconv::depthwise
