#include "cpu/depthwise_kernel.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/depthwise_plan.h"

namespace pathconv::depthwise {
namespace {

const Level& level_for(leanconv::Isa isa) {
#if defined(__x86_64__)
  if (isa == leanconv::Isa::avx512) return level_avx512;
  if (isa == leanconv::Isa::avx2) return level_avx2;
#endif
  return level_baseline;
}

const void* at(const void* data, int64_t element, DType dtype) {
  return static_cast<const char*>(data) + element * bytes_of(dtype);
}
void* at(void* data, int64_t element, DType dtype) { return static_cast<char*>(data) + element * bytes_of(dtype); }

// Memory aligned for any vector.
class Aligned {
 public:
  explicit Aligned(size_t bytes) : memory_(new unsigned char[bytes + 64]) {
    data_ = memory_.get() + (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64);
  }
  unsigned char* data() const { return data_; }

 private:
  std::unique_ptr<unsigned char[]> memory_;
  unsigned char* data_;
};

// body(begin, end) on pieces of [0, count).
template <class F>
void run(ParallelFor parallel, int64_t count, int64_t grain, const F& body) {
  const auto call = [](const void* f, int64_t begin, int64_t end) { (*static_cast<const F*>(f))(begin, end); };
  parallel(count, grain, call, &body);
}

void convolve(const Params& a, Plan::Pass pass, Lanes lanes, const void* source, Strides ss, const void* weight,
              const void* bias, void* out, Strides os, const Level& level, ParallelFor parallel) {
  const Plan plan(a, pass, lanes, ss, os, level.bytes);
  const Geometry& g = plan.geometry();
  const int64_t units = plan.units();
  if (a.batch * units == 0 || g.out_channels == 0) return;
  const std::vector<unsigned char> biases = plan.biases(bias);
  run(parallel, a.batch * units, plan.grain(), [&](int64_t begin, int64_t end) {
    const Aligned weights(plan.blocks() * g.weights * plan.vector() * plan.number()), scratch(plan.scratch_bytes());
    int64_t packed = -1;  // the sample whose weights are there
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / units, group = i % units / plan.tiles() * plan.some_groups(), tile = i % plan.tiles();
      const int64_t wanted = a.per_sample ? n : 0;
      if (packed != wanted)
        plan.pack_weights(at(weight, wanted * a.channels * a.multiplier * a.taps, a.dtype), weights.data());
      packed = wanted;
      const ConvTask task = {at(source, n * ss.n, a.dtype),
                             at(out, n * os.n, a.dtype),
                             weights.data(),
                             biases.data(),
                             group,
                             std::min(group + plan.some_groups(), plan.groups()),
                             tile * plan.tile(),
                             std::min((tile + 1) * plan.tile(), plan.length()),
                             scratch.data()};
      level.conv(a.dtype, g, task);
    }
  });
}

// A sum over samples and positions is taken in chunks that do not depend on the number of threads.
struct Chunks {
  static constexpr int64_t kMany = 32;  // threads that find work

  int64_t batch, tiles, count;
  int64_t parts;   // chunks of a sample, or 0 where chunks are several samples
  int64_t pieces;  // of the groups of channels in each chunk

  Chunks(const Params& a, const Plan& plan) : batch(a.batch), tiles(plan.tiles()) {
    const bool whole = !a.per_sample && batch > kMany;
    parts = whole ? 0 : std::max<int64_t>(1, std::min(tiles, kMany / batch));
    count = whole ? kMany : batch * parts;
    pieces = std::max<int64_t>(1, std::min(plan.groups(), kMany / count));
  }
  int64_t first_sample(int64_t chunk) const { return parts ? chunk / parts : batch * chunk / count; }
  int64_t last_sample(int64_t chunk) const { return parts ? chunk / parts + 1 : batch * (chunk + 1) / count; }
  int64_t first_tile(int64_t chunk) const { return parts ? tiles * (chunk % parts) / parts : 0; }
  int64_t last_tile(int64_t chunk) const { return parts ? tiles * (chunk % parts + 1) / parts : tiles; }
};

// Adds `count` rows of `numbers` to the first.
template <class A>
void add_rows(A* rows, int64_t count, int64_t numbers) {
  for (int64_t i = 1; i < count; ++i)
    for (int64_t j = 0; j < numbers; ++j) rows[j] += rows[i * numbers + j];
}

}  // namespace

void forward(const Params& a, Lanes lanes, const void* x, Strides xs, const void* weight, const void* bias, void* y,
             Strides ys, leanconv::Isa isa, ParallelFor parallel) {
  convolve(a, Plan::Pass::forward, lanes, x, xs, weight, bias, y, ys, level_for(isa), parallel);
}

void grad_input(const Params& a, Lanes lanes, const void* grad, Strides gs, const void* weight, void* grad_x,
                Strides xs, leanconv::Isa isa, ParallelFor parallel) {
  convolve(a, Plan::Pass::grad_input, lanes, grad, gs, weight, nullptr, grad_x, xs, level_for(isa), parallel);
}

void grad_weight(const Params& a, Lanes lanes, const void* grad, Strides gs, const void* x, Strides xs,
                 void* grad_weight, void* grad_bias, leanconv::Isa isa, ParallelFor parallel) {
  const int64_t channels = a.channels * a.multiplier, kernels = a.per_sample ? a.batch : 1;
  if (a.batch == 0 || channels == 0 || a.out_length == 0) {
    std::fill_n(static_cast<char*>(grad_weight), kernels * channels * a.taps * bytes_of(a.dtype), 0);
    std::fill_n(static_cast<char*>(grad_bias), channels * bytes_of(a.dtype), 0);
    return;
  }
  const Level& level = level_for(isa);
  const Plan plan(a, Plan::Pass::grad_weight, lanes, xs, gs, level.bytes);
  const Chunks chunks(a, plan);
  const int64_t row = a.taps + 1, numbers = plan.blocks() * row * plan.vector();
  const size_t bytes = numbers * plan.number();
  const Aligned sums(chunks.count * bytes);
  run(parallel, chunks.count * chunks.pieces, 1, [&](int64_t begin, int64_t end) {
    const Aligned scratch(plan.scratch_bytes());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t chunk = i / chunks.pieces, piece = i % chunks.pieces;
      const int64_t g0 = plan.groups() * piece / chunks.pieces, g1 = plan.groups() * (piece + 1) / chunks.pieces;
      unsigned char* sums_of = sums.data() + chunk * bytes;
      const size_t of_group = bytes / plan.groups();
      std::fill_n(sums_of + g0 * of_group, (g1 - g0) * of_group, 0);
      for (int64_t n = chunks.first_sample(chunk); n < chunks.last_sample(chunk); ++n) {
        const GradTask task = {at(x, n * xs.n, a.dtype),
                               at(grad, n * gs.n, a.dtype),
                               sums_of,
                               g0,
                               g1,
                               chunks.first_tile(chunk) * plan.tile(),
                               std::min(chunks.last_tile(chunk) * plan.tile(), plan.length()),
                               scratch.data()};
        level.grad(a.dtype, plan.geometry(), task);
      }
    }
  });
  with_type(a.dtype, [&](auto type) {
    using T = decltype(type);
    using A = typename AccumulatorOf<T>::type;
    A* all = reinterpret_cast<A*>(sums.data());
    const int64_t vector = plan.vector(), taps = a.taps, rows = chunks.count / kernels;
    // f(channel, its first sum): sums of other taps lie a vector apart.
    const auto for_channels = [=](A* sums, const auto& f) {
      for (int64_t first = 0; first < channels; first += vector, sums += row * vector) {
        const int64_t start = block_start(first / vector, channels, vector), end = std::min(start + vector, channels);
        for (int64_t c = start; c < end; ++c) f(c, sums + c - start);
      }
    };
    const int64_t grain = std::max<int64_t>(1, (1 << 15) / (rows * numbers));
    run(parallel, kernels, grain, [=](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        A* total = all + n * rows * numbers;
        T* out = static_cast<T*>(grad_weight) + n * channels * taps;
        add_rows(total, rows, numbers);
        for_channels(total, [=](int64_t c, const A* of_taps) {
          for (int64_t k = 0; k < taps; ++k) narrow(of_taps[k * vector], out + c * taps + k);
        });
      }
    });
    for_channels(all, [=](int64_t c, const A* of_taps) {
      A total = 0;
      for (int64_t n = 0; n < kernels; ++n) total += of_taps[n * rows * numbers + taps * vector];
      narrow(total, static_cast<T*>(grad_bias) + c);
    });
  });
}

}  // namespace pathconv::depthwise
