// Argument checks of the ops `csgconv::crop` and `csgconv::uncrop`, shared by the CPU and the CUDA binding.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <vector>

#include "layers.h"

namespace csgconv {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

__extension__ typedef __int128 Wide;  // products of sizes that may be anything

constexpr int64_t kNumbers = 6;  // of a layer in the ops' table: start, O, I, T, B0, B1

inline int64_t ceil_of(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// Layer `index` of a table, whose kernel begins at `kernels`; all of it lies in the first `elements` of the slices.
inline Layer read_layer(const int64_t* numbers, int64_t index, int64_t kernels, int64_t elements) {
  const int64_t start = numbers[0], outputs = numbers[1], inputs = numbers[2], taps = numbers[3];
  const int64_t down = numbers[4], wide = numbers[5];
  STD_TORCH_CHECK(std::min({start, outputs, inputs, taps}) >= 0, "layers must hold no negative numbers, but layer ",
                  index, " does");
  STD_TORCH_CHECK(down >= 1 && wide >= 1 && std::max(down, wide) <= INT32_MAX,
                  "layers must have blocks from 1 to 2^31 - 1, but layer ", index, " has (", down, ", ", wide, ")");
  const Wide planes = Wide{outputs} * inputs;
  Wide end = start;
  if (planes > 0 && taps > 0) {
    // The kernel's last element is the farthest. Each factor is checked before it multiplies further.
    end = planes > elements ? planes : taps;
    if (end <= elements) {
      const int64_t o = outputs - 1, i = inputs - 1;
      const Wide block = Wide{o / down} * ceil_of(inputs, wide) + i / wide;
      const Wide plane = block * down * wide + o % down * Wide{wide} + i % wide + 1;
      end = plane > elements ? plane : plane * taps + start;
    }
  }
  STD_TORCH_CHECK(end <= elements, "layers must end within the slices, which have ", elements, " elements, but layer ",
                  index, " does not");
  Layer layer = {};
  layer.slices = start;
  layer.kernels = kernels;
  layer.end = static_cast<int64_t>(end);
  if (layer.end == start) return layer;
  layer.outputs = outputs;
  layer.row = inputs * taps;
  layer.down = down;
  layer.across = ceil_of(inputs, wide);
  const bool whole = layer.across == 1 ? outputs == 1 || wide == inputs : down == 1 && inputs % wide == 0;
  if (whole) layer.down = layer.across = 1;
  layer.width = whole ? layer.row : wide * taps;
  layer.runs = ceil_of(layer.end - start, layer.width);
  return layer;
}

// The layers of a table for slices of `elements`, with something in them, in order; `total` gets the elements of all
// kernels.
inline std::vector<Layer> read_layers(const std::vector<int64_t>& table, int64_t elements, int64_t* total) {
  const int64_t size = static_cast<int64_t>(table.size());
  STD_TORCH_CHECK(size % kNumbers == 0, "layers must hold ", kNumbers, " numbers a layer, but holds ", size);
  std::vector<Layer> layers;
  layers.reserve(size / kNumbers);
  int64_t end = 0;
  *total = 0;
  for (int64_t at = 0; at < size; at += kNumbers) {
    const Layer layer = read_layer(table.data() + at, at / kNumbers, *total, elements);
    STD_TORCH_CHECK(layer.slices >= end, "layers must follow one another in the slices, but layer ", at / kNumbers,
                    " begins before the one in front of it ends");
    if (layer.runs == 0) continue;
    end = layer.end;
    if (!layers.empty()) layers.back().room = layer.slices - layers.back().slices;
    layers.push_back(layer);
    *total += layer.outputs * layer.row;
  }
  if (!layers.empty()) layers.back().room = elements - layers.back().slices;
  return layers;
}

inline void check_floating(const Tensor& t, const char* name) {
  const auto dtype = t.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  name, " must be float32, float64, float16 or bfloat16, but is ", torch::headeronly::toString(dtype));
}

// The layers of a call of `crop`.
inline std::vector<Layer> check_crop(const Tensor& slices, const std::vector<int64_t>& table, int64_t* total) {
  check_floating(slices, "slices");
  STD_TORCH_CHECK(slices.dim() == 2, "slices must have 2 dimensions (rows, P), but has ", slices.dim());
  return read_layers(table, slices.numel(), total);
}

// The layers of a call of `uncrop`.
inline std::vector<Layer> check_uncrop(const Tensor& kernels, const std::vector<int64_t>& table, int64_t rows,
                                       int64_t size) {
  check_floating(kernels, "kernels");
  STD_TORCH_CHECK(kernels.dim() == 1, "kernels must have 1 dimension, but has ", kernels.dim());
  STD_TORCH_CHECK(rows >= 0 && size >= 0, "rows and size must not be negative, but are ", rows, " and ", size);
  STD_TORCH_CHECK(size == 0 || rows <= INT64_MAX / 8 / size, "rows and size must be those of a tensor, but are ", rows,
                  " and ", size);
  int64_t total = 0;
  std::vector<Layer> layers = read_layers(table, rows * size, &total);
  STD_TORCH_CHECK(kernels.size(0) == total, "kernels must have the ", total, " elements of these layers, but has ",
                  kernels.size(0));
  return layers;
}

// Asking first is quicker than what `contiguous` does to find out.
inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

}  // namespace csgconv
