#include "cpu/oriented_conv1d_kernel.h"

#include <algorithm>
#include <vector>

#include "cpu/plan.h"
#include "cpu/plan_lines.h"

namespace dwoconv1d {
namespace {

const Level& level_for(leanconv::Isa isa) {
#if defined(__x86_64__)
  if (isa == leanconv::Isa::avx512) return level_avx512;
  if (isa == leanconv::Isa::avx2) return level_avx2;
#endif
  return level_baseline;
}

template <class F>
void run(ParallelFor parallel, int64_t count, int64_t grain, const F& task) {
  const auto body = [](const void* f, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) (*static_cast<const F*>(f))(i, end);
  };
  parallel(count, grain, body, &task);
}

const void* at(const void* data, int64_t element, DType dtype) {
  return static_cast<const char*>(data) + element * bytes_of(dtype);
}
void* at(void* data, int64_t element, DType dtype) { return static_cast<char*>(data) + element * bytes_of(dtype); }

// Hands the blocks of a unit to a kernel of the level, a batch at a time; `describe` fills in what is particular to a
// block.
template <class Task, class F>
void for_batches(const Plan& plan, const Unit& unit,
                 void (*kernel)(DType, const Geometry* const*, const Task*, int64_t), DType dtype, const F& describe) {
  char* scratch = static_cast<char*>(thread_scratch(plan.batch() * plan.scratch_bytes()));
  const Geometry* geometries[kMaxBatch];
  Task tasks[kMaxBatch];
  for (int64_t first = unit.first_block; first < unit.last_block; first += plan.batch()) {
    const int64_t count = std::min(plan.batch(), unit.last_block - first);
    for (int64_t i = 0; i < count; ++i) {
      const Block& block = plan.blocks()[first + i];
      geometries[i] = &plan.geometry(block);
      tasks[i].area = unit.area;
      tasks[i].channels = block.channels;
      tasks[i].scratch = scratch + i * plan.scratch_bytes();
      describe(first + i, tasks + i);
    }
    kernel(dtype, geometries, tasks, count);
  }
}

// A convolution over `batch` images whose reads are `reads`.
void convolve(const Reads& reads, int64_t batch, DType dtype, const void* x, Strides xs, const void* weight,
              bool residual, const void* bias, void* y, Strides ys, const Level& level, ParallelFor parallel) {
  if (batch == 0 || reads.channels == 0 || reads.out_height == 0 || reads.out_width == 0) return;
  if (level.line != nullptr && dtype == DType::float32 && LinePlan::accepts(reads, xs, ys)) {
    const LinePlan plan(reads, batch, xs, ys, static_cast<const float*>(weight), residual,
                        static_cast<const float*>(bias));
    if (plan.possible()) {
      run(parallel, plan.units(), plan.grain(), [&](int64_t i, int64_t end) {
        plan.run(i, std::min(i + 1, end - 1), static_cast<const float*>(x), static_cast<float*>(y), level.line);
      });
      return;
    }
  }
  const Plan plan(reads, batch, xs, ys, level.bytes, dtype, level.planes != nullptr);
  const std::vector<unsigned char> weights = plan.weights(weight, residual), biases = plan.biases(bias);
  if (plan.in_place()) {
    const std::vector<Plane> planes = plan.planes(reinterpret_cast<const float*>(weights.data()));
    run(parallel, plan.units(), plan.grain(), [&](int64_t i, int64_t) {
      const Unit unit = plan.unit(i);
      const int64_t c = unit.first_block;
      level.planes({static_cast<const float*>(x) + unit.image * xs.n + c * xs.c, xs.c, xs.h, reads.height,
                    static_cast<float*>(y) + unit.image * ys.n + c * ys.c, ys.c, ys.h, unit.last_block - c,
                    planes.data() + c, reinterpret_cast<const float*>(biases.data()) + c, unit.area});
    });
    return;
  }
  run(parallel, plan.units(), plan.grain(), [&](int64_t i, int64_t end) {
    const Unit unit = plan.unit(i), next = plan.unit(std::min(i + 1, end - 1));
    for_batches(plan, unit, level.conv, dtype, [&](int64_t b, ConvTask* task) {
      const Block& block = plan.blocks()[b];
      task->source = {
          at(x, unit.image * xs.n + block.first * xs.c, dtype), xs.h, xs.w, xs.c, reads.height, reads.width};
      task->out = at(y, unit.image * ys.n + block.first * ys.c, dtype);
      task->out_h = ys.h;
      task->out_w = ys.w;
      task->out_c = ys.c;
      task->weight = weights.data() + block.weights * plan.number();
      task->bias = biases.data() + block.first * plan.number();
      task->reads = plan.reads_of(next, x, xs, b - unit.first_block);
      task->writes = plan.writes_of(next, y, ys, b - unit.first_block);
    });
  });
}

Reads forward_reads(const Params& a) {
  return {a.channels, a.taps, a.height, a.width, a.out_height, a.out_width, a.stride_h, a.stride_w, a.offsets, false,
          0,          0,      1,        1};
}

}  // namespace

void forward(const Params& a, const void* x, Strides xs, const void* weight, const void* bias, void* y, Strides ys,
             leanconv::Isa isa, ParallelFor parallel) {
  convolve(forward_reads(a), a.batch, a.dtype, x, xs, weight, a.residual, bias, y, ys, level_for(isa), parallel);
}

// Rows and columns of x that are equal modulo the stride are read by the same taps: each such class is a stride-1
// convolution of the upstream gradient, written to every stride-th pixel.
void grad_input(const Params& a, const void* grad, Strides gs, const void* weight, void* grad_x, Strides xs,
                leanconv::Isa isa, ParallelFor parallel) {
  for (int64_t row = 0; row < std::min(a.stride_h, a.height); ++row) {
    for (int64_t column = 0; column < std::min(a.stride_w, a.width); ++column) {
      const Reads reads = {a.channels,
                           a.taps,
                           a.out_height,
                           a.out_width,
                           (a.height - row + a.stride_h - 1) / a.stride_h,
                           (a.width - column + a.stride_w - 1) / a.stride_w,
                           1,
                           1,
                           a.offsets,
                           true,
                           row,
                           column,
                           a.stride_h,
                           a.stride_w};
      const Strides out = {xs.n, xs.c, xs.h * a.stride_h, xs.w * a.stride_w};
      convolve(reads, a.batch, a.dtype, grad, gs, weight, a.residual, nullptr,
               at(grad_x, row * xs.h + column * xs.w, a.dtype), out, level_for(isa), parallel);
    }
  }
}

namespace {

template <class T>
void reduce(const Params& a, const Plan& plan, const std::vector<size_t>& starts, const unsigned char* partial,
            int64_t chunks, size_t stride, void* grad_weight, void* grad_bias) {
  using A = typename AccumulatorOf<T>::type;
  const A* sums = reinterpret_cast<const A*>(partial);
  for (size_t b = 0; b < plan.blocks().size(); ++b) {
    const Block& block = plan.blocks()[b];
    const auto total = [&](int64_t tap, int64_t lane) {
      const int64_t lanes = plan.lanes() == Lanes::pixels ? plan.vector() : 1;
      A value = 0;
      for (int64_t i = 0; i < chunks; ++i)
        for (int64_t j = lane; j < lane + lanes; ++j) value += sums[i * stride + starts[b] + tap * plan.vector() + j];
      return value;
    };
    for (size_t p = block.first_piece; p < block.last_piece; ++p) {
      const Piece& piece = plan.pieces()[p];
      const std::vector<int64_t>& map = plan.map(piece);
      for (int64_t c = piece.first; c < piece.first + piece.channels; ++c) {
        T* out = static_cast<T*>(grad_weight) + c * a.taps;
        for (int64_t s = 0; s < a.taps; ++s) narrow(map[s] < 0 ? A(0) : total(map[s], c - block.first), out + s);
        narrow(total(plan.geometry(block).taps.count, c - block.first), static_cast<T*>(grad_bias) + c);
      }
    }
  }
}

}  // namespace

void grad_weight(const Params& a, const void* grad, Strides gs, const void* x, Strides xs, void* grad_weight,
                 void* grad_bias, leanconv::Isa isa, ParallelFor parallel) {
  if (a.batch == 0 || a.channels == 0 || a.out_height == 0 || a.out_width == 0) {
    std::fill_n(static_cast<char*>(grad_weight), a.channels * a.taps * bytes_of(a.dtype), 0);
    std::fill_n(static_cast<char*>(grad_bias), a.channels * bytes_of(a.dtype), 0);
    return;
  }
  const Level& level = level_for(isa);
  const Plan plan(forward_reads(a), a.batch, xs, gs, level.bytes, a.dtype);
  std::vector<size_t> starts;
  size_t numbers = 0;
  for (const Block& block : plan.blocks()) {
    starts.push_back(numbers);
    numbers += (plan.geometry(block).taps.count + 1) * plan.vector();
  }
  const int64_t chunks = plan.chunks();
  std::vector<unsigned char> partial(chunks * numbers * plan.number());
  run(parallel, chunks * plan.ranges(), 1, [&](int64_t i, int64_t) {
    const int64_t range = i % plan.ranges(), chunk = i / plan.ranges(), tiles = plan.units() / plan.ranges();
    const int64_t end = tiles * (chunk + 1) / chunks;
    for (int64_t t = tiles * chunk / chunks; t < end; ++t) {
      const Unit unit = plan.unit(t * plan.ranges() + range),
                 next = plan.unit(std::min(t + 1, end - 1) * plan.ranges() + range);
      for_batches(plan, unit, level.grad, a.dtype, [&](int64_t b, GradTask* task) {
        const int64_t c = plan.blocks()[b].first;
        task->source = {at(x, unit.image * xs.n + c * xs.c, a.dtype), xs.h, xs.w, xs.c, a.height, a.width};
        task->grad = {at(grad, unit.image * gs.n + c * gs.c, a.dtype), gs.h, gs.w, gs.c, a.out_height, a.out_width};
        task->sums = partial.data() + (chunk * numbers + starts[b]) * plan.number();
        task->reads = plan.reads_of(next, x, xs, b - unit.first_block);
        task->grad_reads = plan.writes_of(next, grad, gs, b - unit.first_block);
      });
    }
  });
  switch (a.dtype) {
    case DType::float32: return reduce<float>(a, plan, starts, partial.data(), chunks, numbers, grad_weight, grad_bias);
    case DType::float64:
      return reduce<double>(a, plan, starts, partial.data(), chunks, numbers, grad_weight, grad_bias);
    case DType::float16: return reduce<Half>(a, plan, starts, partial.data(), chunks, numbers, grad_weight, grad_bias);
    case DType::bfloat16:
      return reduce<BFloat16>(a, plan, starts, partial.data(), chunks, numbers, grad_weight, grad_bias);
  }
}

}  // namespace dwoconv1d
