// The traversal fused with a convolution of kernel size 1: blocks of positions are gathered into the cache, once, as
// the columns of a matrix product. A row of ones among them turns bias into one more weight.
#include <vector>

#include "cpu/traverse_memory.h"
#include "cpu/traverse_plan.h"

namespace pathconv::traversal {
namespace {

constexpr int64_t kColumnBytes = 24 << 10;  // half of the smallest first-level cache of today
constexpr int64_t kResultBytes = 48 << 10;
constexpr int64_t kMostBlock = 512;
constexpr int64_t kMostChunks = 64;  // of partial sums, whatever the number of threads

// Positions of one block, and how many blocks a sample has.
struct Blocks {
  int64_t size, count;

  explicit Blocks(const Params& a) {
    const int64_t number = bytes_of(accumulator_of(a.dtype));
    const int64_t columns = kColumnBytes / ((a.paths * a.channels + 1) * number);
    const int64_t results = kResultBytes / (std::max(a.outputs, int64_t{1}) * number);
    const int64_t fitting = std::min(std::max(std::min(columns, results) / 16 * 16, int64_t{16}), kMostBlock);
    size = std::min(fitting, padded(std::max(a.length(), int64_t{1})));
    count = (a.length() + size - 1) / size;
  }
};

// None of images that are read with their channels side by side.
Plan<Picks> picks_for(const Params& a, ImageStrides xs, const int32_t* index, Place place) {
  return pixel_stride(a, xs) > 1 ? nullptr : plan_picks(a, index, place);
}

// Columns of one block after the other, for one thread.
class Gatherer {
 public:
  Gatherer(const Params& a, const Blocks& blocks, const void* x, ImageStrides xs, const int32_t* index,
           const Plan<Picks>& picks, Place place)
      : a_(a), blocks_(blocks), x_(x), xs_(xs), index_(index), level_(place.level), direct_(pixel_stride(a, xs) > 0),
        picks_(data_of(picks)), columns_((a.paths * a.channels + 1) * blocks.size * bytes_of(accumulator_of(a.dtype))),
        sample_(direct_ ? 0 : a.channels * a.length() * bytes_of(a.dtype)) {}

  // (P * C + 1, block) accumulators.
  const void* columns(int64_t n, int64_t first) {
    const void* image = at(x_, n * xs_.n, a_.dtype);
    if (!direct_ && n != packed_) copy_image(a_, image, xs_, sample_.data(), planes_of(a_), a_.channels);
    packed_ = n;
    level_.columns(a_.dtype, {direct_ ? image : sample_.data(), direct_ ? xs_.c : a_.length(),
                              direct_ ? pixel_stride(a_, xs_) : 1, index_ + first, a_.paths, a_.channels, a_.length(),
                              blocks_.size, std::min(blocks_.size, a_.length() - first), columns_.data(),
                              picks_ == nullptr ? nullptr : picks_ + first / kPicked, a_.length() / kPicked});
    return columns_.data();
  }

 private:
  const Params& a_;
  const Blocks& blocks_;
  const void* x_;
  ImageStrides xs_;
  const int32_t* index_;
  const Level& level_;
  bool direct_;
  const Picks* picks_;
  Scratch columns_, sample_;
  int64_t packed_ = -1;
};

// The weights as accumulators (outputs, P * C + 1), the bias behind each row, or turned (P * C + 1, padded outputs).
template <class A>
std::vector<A> weights_of(const Params& a, const void* weight, const void* bias, bool turned, Place place) {
  const int64_t inputs = a.paths * a.channels, row = turned ? padded(a.outputs) : inputs + 1;
  std::vector<A> given(a.outputs * inputs + 16), offsets(a.outputs + 16);
  place.level.widen(a.dtype, weight, given.data(), a.outputs * inputs);
  if (bias != nullptr) place.level.widen(a.dtype, bias, offsets.data(), a.outputs);
  std::vector<A> out((turned ? inputs + 1 : a.outputs) * row + 16);
  for (int64_t o = 0; o < a.outputs; ++o)
    for (int64_t k = 0; k <= inputs; ++k)
      out[turned ? k * row + o : o * row + k] = k < inputs ? given[o * inputs + k] : offsets[o];
  return out;
}

template <class A>
void conv_as(const Params& a, const void* x, ImageStrides xs, const int32_t* index, const void* weight,
             const void* bias, void* y, SequenceStrides ys, Place place) {
  const bool planar = ys.l == 1, exact = is_accumulator(a.dtype);
  const int64_t length = a.length(), inputs = a.paths * a.channels, row = padded(a.outputs);
  const Blocks blocks(a);
  const std::vector<A> weights = weights_of<A>(a, weight, bias, !planar, place);
  const int64_t step = planar ? ys.c : ys.l;  // from row to row of the product
  const int64_t bytes = a.batch * a.outputs * length * sizeof(A);
  const bool stream = exact && streams(y, step * sizeof(A), bytes) && (planar || row == a.outputs);
  const Plan<Picks> picks = picks_for(a, xs, index, place);
  // Rows that share cache lines are written together, which is faster past the cache.
  const bool staged = exact && !planar && row != a.outputs && bytes >= kStreamed;
  run(place.parallel, a.batch * blocks.count, blocks.size * a.outputs, [&](int64_t begin, int64_t end) {
    Gatherer gatherer(a, blocks, x, xs, index, picks, place);
    const Scratch result(exact && !staged ? 0 : blocks.size * a.outputs * sizeof(A));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / blocks.count, first = i % blocks.count * blocks.size;
      const int64_t live = std::min(blocks.size, length - first);
      const void* columns = gatherer.columns(n, first);
      void* out = at(y, n * ys.n + first * ys.l, a.dtype);
      Product job = planar ? Product{a.outputs, live,        inputs, weights.data(), inputs + 1, 1,
                                     columns,   blocks.size, out,    step,           false,      stream}
                           : Product{live,           a.outputs, inputs, columns, 1,     blocks.size,
                                     weights.data(), row,       out,    step,    false, stream};
      if (bias != nullptr) ++job.depth;
      if (!exact || staged) {
        job.out = result.data();
        job.out_row = planar ? blocks.size : a.outputs;
      }
      place.level.multiply(is_wide(a.dtype), job);
      if (staged) {
        place.level.stream(job.out, out, live * a.outputs * sizeof(A));
      } else if (exact) {
        continue;
      } else if (!planar) {
        place.level.narrow(a.dtype, job.out, out, live * a.outputs);
      } else {
        for (int64_t o = 0; o < a.outputs; ++o)
          place.level.narrow(a.dtype, static_cast<A*>(job.out) + o * job.out_row, at(out, o * ys.c, a.dtype), live);
      }
    }
  });
}

// Rows of numbers as accumulators that can be read to whole vectors: as they are, or widened into `scratch`.
struct Rows {
  const void* data;
  int64_t row;
};
Rows readable(const Params& a, const void* data, int64_t row, int64_t rows, int64_t count, bool whole,
              const Scratch& scratch, Place place) {
  if (is_accumulator(a.dtype) && (!whole || count % 16 == 0)) return {data, row};
  const DType accumulator = accumulator_of(a.dtype);
  for (int64_t i = 0; i < rows; ++i)
    place.level.widen(a.dtype, at(data, i * row, a.dtype), at(scratch.data(), i * padded(count), accumulator), count);
  return {scratch.data(), padded(count)};
}

template <class A>
void conv_grad_input_as(const Params& a, const void* grad, SequenceStrides gs, const int32_t* inverse,
                        const void* weight, void* x, ImageStrides xs, Place place) {
  const bool planar = gs.l == 1;
  const int64_t length = a.length(), inputs = a.paths * a.channels;
  const Blocks blocks(a);
  std::vector<A> weights = weights_of<A>(a, weight, nullptr, false, place);  // (outputs, inputs + 1)
  if (!planar) {                                                             // rows of whole vectors
    std::vector<A> wide(a.outputs * padded(inputs) + 16);
    for (int64_t o = 0; o < a.outputs; ++o)
      std::copy_n(weights.data() + o * (inputs + 1), inputs, wide.data() + o * padded(inputs));
    weights.swap(wide);
  }
  const int64_t row = planar ? padded(length) : padded(inputs);  // of what the sums read
  const bool direct = planar ? pixel_stride(a, xs) == 1 : dense_pixels(a, xs);
  run(place.parallel, a.batch, length * a.outputs, [&](int64_t begin, int64_t end) {
    const Scratch sequence((planar ? inputs : length) * row * sizeof(A));  // the gradient of what was gathered
    const Scratch block(padded(a.outputs) * blocks.size * sizeof(A));
    const Scratch image(direct ? 0 : length * (planar ? 1 : a.channels) * bytes_of(a.dtype));
    std::vector<const void*> planes(a.paths);
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t first = 0; first < length; first += blocks.size) {
        const int64_t live = std::min(blocks.size, length - first);
        const void* source = at(grad, n * gs.n + first * gs.l, a.dtype);
        A* out = static_cast<A*>(sequence.data()) + first * (planar ? 1 : row);
        const Rows g = planar ? readable(a, source, gs.c, a.outputs, live, true, block, place)
                              : readable(a, source, gs.l, live, a.outputs, false, block, place);
        place.level.multiply(is_wide(a.dtype), planar ? Product{inputs, live, a.outputs, weights.data(), 1, inputs + 1,
                                                                g.data, g.row, out, row, false, false}
                                                      : Product{live, inputs, a.outputs, g.data, g.row, 1,
                                                                weights.data(), row, out, row, false, false});
      }
      const DType accumulator = accumulator_of(a.dtype);
      void* target = at(x, n * xs.n, a.dtype);
      if (!planar) {
        place.level.sum_pixels(accumulator, a.dtype,
                               {sequence.data(), row, a.channels, inverse, a.paths, length, a.channels,
                                direct ? target : image.data(), 0});
        if (!direct) copy_image(a, image.data(), pixels_of(a), target, xs, a.channels);
        continue;
      }
      for (int64_t c = 0; c < a.channels; ++c) {
        void* plane = at(target, c * xs.c, a.dtype);
        for (int64_t p = 0; p < a.paths; ++p) planes[p] = static_cast<A*>(sequence.data()) + (p * a.channels + c) * row;
        place.level.sum_planes(accumulator, a.dtype,
                               {planes.data(), inverse, a.paths, length, direct ? plane : image.data(), 0, false});
        if (!direct) copy_image(a, image.data(), planes_of(a), plane, xs, 1);
      }
    }
  });
}

template <class A>
void conv_grad_weight_as(const Params& a, const void* grad, SequenceStrides gs, const void* x, ImageStrides xs,
                         const int32_t* index, void* weight, void* bias, Place place) {
  const bool planar = gs.l == 1;
  const int64_t length = a.length(), inputs = a.paths * a.channels;
  const Blocks blocks(a);
  const int64_t rows = planar ? a.outputs : inputs + 1, row = padded(planar ? inputs + 1 : a.outputs);
  const int64_t units = a.batch * blocks.count, chunks = std::min(units, kMostChunks);
  std::vector<A> sums(chunks * rows * row + 16);
  const Plan<Picks> picks = picks_for(a, xs, index, place);
  run(place.parallel, chunks, units / std::max(chunks, int64_t{1}) * blocks.size * a.outputs,
      [&](int64_t begin, int64_t end) {
        Gatherer gatherer(a, blocks, x, xs, index, picks, place);
        const Scratch block(padded(a.outputs) * blocks.size * sizeof(A));
        const Scratch turned(planar ? blocks.size * row * sizeof(A) : 0);
        for (int64_t chunk = begin; chunk < end; ++chunk) {
          for (int64_t i = units * chunk / chunks; i < units * (chunk + 1) / chunks; ++i) {
            const int64_t n = i / blocks.count, first = i % blocks.count * blocks.size;
            const int64_t live = std::min(blocks.size, length - first);
            const void* columns = gatherer.columns(n, first);
            const void* source = at(grad, n * gs.n + first * gs.l, a.dtype);
            A* out = sums.data() + chunk * rows * row;
            if (planar) {
              const Rows g = readable(a, source, gs.c, a.outputs, live, false, block, place);
              place.level.turn(is_wide(a.dtype), columns, blocks.size, inputs + 1, blocks.size, turned.data(), row);
              place.level.multiply(is_wide(a.dtype), {a.outputs, inputs + 1, live, g.data, g.row, 1, turned.data(), row,
                                                      out, row, true, false});
            } else {
              const Rows g = readable(a, source, gs.l, live, a.outputs, true, block, place);
              place.level.multiply(is_wide(a.dtype), {inputs + 1, a.outputs, live, columns, blocks.size, 1, g.data,
                                                      g.row, out, row, true, false});
            }
          }
        }
      });
  for (int64_t chunk = 1; chunk < chunks; ++chunk)
    for (int64_t i = 0; i < rows * row; ++i) sums[i] += sums[chunk * rows * row + i];
  std::vector<A> ordered(a.outputs * inputs + 16), last(a.outputs + 16);
  for (int64_t o = 0; o < a.outputs && chunks > 0; ++o) {
    for (int64_t k = 0; k < inputs; ++k) ordered[o * inputs + k] = planar ? sums[o * row + k] : sums[k * row + o];
    last[o] = planar ? sums[o * row + inputs] : sums[inputs * row + o];
  }
  place.level.narrow(a.dtype, ordered.data(), weight, a.outputs * inputs);
  place.level.narrow(a.dtype, last.data(), bias, a.outputs);
}

}  // namespace

void conv(const Params& a, const void* x, ImageStrides xs, const int32_t* index, const void* weight, const void* bias,
          void* y, SequenceStrides ys, Place place) {
  if (a.batch * a.outputs * a.length() == 0) return;
  (is_wide(a.dtype) ? conv_as<double> : conv_as<float>)(a, x, xs, index, weight, bias, y, ys, place);
}

void conv_grad_input(const Params& a, const void* grad, SequenceStrides gs, const int32_t* inverse, const void* weight,
                     void* x, ImageStrides xs, Place place) {
  if (a.batch * a.channels * a.length() == 0) return;
  const auto kernel = is_wide(a.dtype) ? conv_grad_input_as<double> : conv_grad_input_as<float>;
  kernel(a, grad, gs, inverse, weight, x, xs, place);
}

void conv_grad_weight(const Params& a, const void* grad, SequenceStrides gs, const void* x, ImageStrides xs,
                      const int32_t* index, void* weight, void* bias, Place place) {
  const auto kernel = is_wide(a.dtype) ? conv_grad_weight_as<double> : conv_grad_weight_as<float>;
  kernel(a, grad, gs, x, xs, index, weight, bias, place);
}

}  // namespace pathconv::traversal
