// Plans and launches the gradients of weight and bias. No torch header: compiles in seconds per architecture.
#include "cuda/depthwise_plan.cuh"

namespace smpconv::depthwise {
namespace {

constexpr int64_t kSumBlocksWanted = 2048;  // the same on every GPU
constexpr int64_t kSumRows = 1024;          // of grad in a block
constexpr int64_t kSumColumns = 256;
constexpr int64_t kPartColumns = 24;  // of a lane at least, where lanes share a row
constexpr int64_t kMaxSplits = 256;

constexpr Instance kGradWeight[] = {{32, 1, false}, {16, 1, false}, {8, 1, false},
                                    {16, 1, true},  {14, 1, true},  {8, 1, true}};

// What a row of the kernel on a row of one image costs, counted as for `convolve`.
int64_t sum_cost_of(const Instance& i, const Params& p) {
  if (i.crossed) return p.width > i.sums ? -1 : 4 * i.sums * i.sums + 2 * 4 * 2 * whole(i.sums);
  const int64_t segments = ceil_ratio(p.kernel_w, i.sums), read = p.width + pad_of(p.width);
  return segments * (4 * i.sums * p.width + 2 * 4 * (2 * read + ring_of(i.sums)));
}

int64_t chunks_of(const Params& p) { return ceil_ratio(p.kernel_h, p.kernel_rows); }

template <typename T, int Sums, bool Crossed>
void grad_weight_as(const Params& p, void* stream) {
  const int64_t blocks = p.channels * chunks_of(p) * p.splits;
  launch(grad_weight<T, Sums, Crossed>, p, blocks, kThreads, p.shared_bytes, stream, kPackage);
}

}  // namespace

// As many images as lanes and shared memory take; where one is too large, fewer rows of it and of the kernel.
void plan_grad_weight(Params* params, DType dtype, bool last) {
  Params& p = *params;
  const int64_t bytes = sum_bytes_of(dtype);
  p.last = last;
  choose(kGradWeight, &p, sum_cost_of);
  p.segments = p.crossed ? 1 : ceil_ratio(p.kernel_w, p.sums);
  p.rows = even_part(p.height, kSumRows);
  p.columns = even_part(p.width, kSumColumns);
  p.kernel_rows = p.kernel_h;
  p.parts = 1;
  while (!p.crossed && p.parts < 4 && p.columns >= 2 * kPartColumns * p.parts) p.parts *= 2;
  p.images = 32 / p.parts;
  while (p.images >= 2 * p.batch) p.images /= 2;
  while (SumLayout(p).numbers(p) * bytes > kMaxShared) {
    int* most = p.images > 1 ? &p.images : p.rows > p.kernel_rows ? &p.rows : &p.kernel_rows;
    if (*most == 1) break;
    *most = half(*most);
  }
  p.shared_bytes = SumLayout(p).numbers(p) * bytes;
  const int64_t units = ceil_ratio(p.batch, p.images) * ceil_ratio(p.height, p.rows) * ceil_ratio(p.width, p.columns);
  const int64_t wanted = std::max<int64_t>(kSumBlocksWanted / (p.channels * chunks_of(p)), 1);
  const int64_t units_each = std::max(ceil_ratio(units, wanted), ceil_ratio(units, kMaxSplits));
  p.splits = ceil_ratio(units, units_each);
}

int64_t partial_count(const Params& p) {
  return int64_t{p.splits} * p.channels * (int64_t{p.kernel_h} * p.kernel_w + 1);
}

void launch_grad_weight(const Params& p, DType dtype, bool, void* stream) {
  with_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    if (p.crossed && p.sums == 16) grad_weight_as<T, 16, true>(p, stream);
    if (p.crossed && p.sums == 14) grad_weight_as<T, 14, true>(p, stream);
    if (p.crossed && p.sums == 8) grad_weight_as<T, 8, true>(p, stream);
    if (!p.crossed && p.sums == 32) grad_weight_as<T, 32, false>(p, stream);
    if (!p.crossed && p.sums == 16) grad_weight_as<T, 16, false>(p, stream);
    if (!p.crossed && p.sums == 8) grad_weight_as<T, 8, false>(p, stream);
    const int64_t sums = p.channels * (int64_t{p.kernel_h} * p.kernel_w + 1);
    launch(finish<T>, p, ceil_ratio(sums, kThreads), kThreads, 0, stream, kPackage);
  });
}

}  // namespace smpconv::depthwise
