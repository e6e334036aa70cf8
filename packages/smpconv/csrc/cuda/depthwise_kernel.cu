// Plans and launches the kernels of the depthwise convolution. No torch header: compiles in seconds per architecture.
#include "common/host.cuh"
#include "cuda/depthwise_kernel.cuh"
#include "cuda/depthwise_kernel.h"

namespace smpconv::depthwise {
namespace {

using leanconv::ceil_ratio;
using leanconv::even_part;
using leanconv::launch;
using leanconv::with_dtype;

constexpr int64_t kMaxCount = 1 << 30;
constexpr int64_t kMaxShared = 64 * 1024;  // what every GPU has, and several blocks on larger ones
constexpr int64_t kMaxSegments = 4;
constexpr int64_t kMaxRows = 32;
constexpr int64_t kLastChannels = 4;     // of a block, where they are neighbours in memory
constexpr int64_t kBlocksWanted = 1024;  // the same on every GPU
constexpr int64_t kSumColumns = 256;     // of grad in a block
constexpr int64_t kPartColumns = 24;     // of a lane at least, where lanes share a row
constexpr int64_t kMaxSplits = 256;

struct Instance {
  int sums, copies;
  bool crossed;
};

constexpr Instance kConvolve[] = {{28, 1, false}, {16, 2, false}, {8, 4, false}, {28, 1, true},
                                  {16, 2, true},  {14, 2, true},  {8, 4, true}};
constexpr Instance kGradWeight[] = {{32, 1, false}, {28, 1, false}, {16, 1, false}, {8, 1, false},
                                    {16, 1, true},  {14, 1, true},  {8, 1, true}};

// What a row of the kernel on a row of one image costs: products, and twice the numbers that are read from shared
// memory, both times 4. A processor does 4 products a number, and both at once.
int64_t cost_of(const Instance& i, const Params& p) {
  const int64_t segments = ceil_ratio(p.width, i.sums), width = p.width, taps = p.kernel_w;
  if (i.crossed && (segments > 1 || taps < 2 * width - 1)) return -1;
  const int64_t steps = i.crossed ? width : taps, read = steps + pad_of(steps), slid = read + ring_of(i.sums);
  const int64_t words = i.crossed ? 4 * read + 4 * slid / i.copies : segments * (4 * slid + 4 * read / i.copies);
  const int64_t cost = 4 * segments * i.sums * steps + 2 * words;
  return cost * (ceil_ratio(p.batch, i.copies) * i.copies);
}

int64_t sum_cost_of(const Instance& i, const Params& p) {
  if (i.crossed) return p.width > i.sums ? -1 : 4 * i.sums * i.sums + 2 * 4 * 2 * whole(i.sums);
  const int64_t segments = ceil_ratio(p.kernel_w, i.sums), read = p.width + pad_of(p.width);
  return segments * (4 * i.sums * p.width + 2 * 4 * (2 * read + ring_of(i.sums)));
}

template <int Count, typename Cost>
void choose(const Instance (&instances)[Count], Params* params, Cost cost) {
  int64_t least = -1;
  for (const Instance& instance : instances) {
    const int64_t now = cost(instance, *params);
    if (now < 0 || (least >= 0 && now >= least)) continue;
    least = now;
    params->sums = instance.sums;
    params->copies = instance.copies;
    params->crossed = instance.crossed;
  }
}

int64_t half(int64_t count) { return (count + 1) / 2; }

int64_t convolve_blocks(const Params& p) {
  return ceil_ratio(p.channels, p.group) * ceil_ratio(p.width, p.segments * p.sums) * ceil_ratio(p.height, p.rows) *
         ceil_ratio(p.batch, p.images * p.copies);
}

// Whole rows if they can be, then images, then channels, as far as they fit.
void plan_convolve(Params* params, DType dtype, bool last) {
  Params& p = *params;
  const int64_t bytes = sum_bytes_of(dtype);
  p.last = last;
  choose(kConvolve, &p, cost_of);
  p.segments = even_part(ceil_ratio(p.width, p.sums), kMaxSegments);
  const int64_t threads = std::min<int64_t>(kThreads, kMaxShared / ((p.sums * p.copies | 1) * bytes)) / p.segments;
  p.group = last ? std::min<int64_t>(p.channels, kLastChannels) : 1;
  p.rows = even_part(p.height, std::min(kMaxRows, threads / p.group));
  p.images = even_part(ceil_ratio(p.batch, p.copies), threads / (p.group * p.rows));
  p.kernel_rows = p.kernel_h;
  const int64_t spare = std::min(threads / (p.rows * p.images), convolve_blocks(p) * p.group / kBlocksWanted);
  p.group = even_part(p.channels, std::max<int64_t>(spare, p.group));
  while (ConvolveLayout(p).numbers() * bytes > kMaxShared) {
    int* most = p.images > 1 ? &p.images : p.group > 1 ? &p.group : p.kernel_rows > 1 ? &p.kernel_rows : &p.rows;
    if (*most == 1) break;
    *most = half(*most);
  }
  p.shared_bytes = ConvolveLayout(p).numbers() * bytes;
}

template <typename T, int Sums, int Copies, bool Crossed>
void convolve_as(const Params& p, void* stream) {
  launch(convolve<T, Sums, Copies, Crossed>, p, convolve_blocks(p), kThreads, p.shared_bytes, stream, kPackage);
}

int64_t chunks_of(const Params& p) { return ceil_ratio(p.kernel_h, p.kernel_rows); }

template <typename T, int Sums, bool Crossed>
void grad_weight_as(const Params& p, void* stream) {
  const int64_t blocks = p.channels * chunks_of(p) * p.splits;
  launch(grad_weight<T, Sums, Crossed>, p, blocks, kThreads, p.shared_bytes, stream, kPackage);
}

}  // namespace

bool representable(int64_t batch, int64_t channels, int64_t height, int64_t width) {
  return std::max({batch, channels, height, width}) <= kMaxCount;
}

void launch_convolve(Params params, DType dtype, bool last, void* stream) {
  plan_convolve(&params, dtype, last);
  const Params& p = params;
  with_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    if (p.crossed) {
      if (p.sums == 28) return convolve_as<T, 28, 1, true>(p, stream);
      if (p.sums == 16) return convolve_as<T, 16, 2, true>(p, stream);
      if (p.sums == 14) return convolve_as<T, 14, 2, true>(p, stream);
      return convolve_as<T, 8, 4, true>(p, stream);
    }
    if (p.sums == 28) return convolve_as<T, 28, 1, false>(p, stream);
    if (p.sums == 16) return convolve_as<T, 16, 2, false>(p, stream);
    convolve_as<T, 8, 4, false>(p, stream);
  });
}

// As many images as lanes and shared memory take; where one is too large, fewer rows of it and of the kernel.
void plan_grad_weight(Params* params, DType dtype, bool last) {
  Params& p = *params;
  const int64_t bytes = sum_bytes_of(dtype);
  p.last = last;
  choose(kGradWeight, &p, sum_cost_of);
  p.segments = p.crossed ? 1 : ceil_ratio(p.kernel_w, p.sums);
  p.rows = p.height;
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
  const int64_t wanted = kBlocksWanted / std::max<int64_t>(p.channels * chunks_of(p), 1);
  p.splits = std::max<int64_t>(std::min({wanted, units, kMaxSplits}), 1);
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
    if (!p.crossed && p.sums == 28) grad_weight_as<T, 28, false>(p, stream);
    if (!p.crossed && p.sums == 16) grad_weight_as<T, 16, false>(p, stream);
    if (!p.crossed && p.sums == 8) grad_weight_as<T, 8, false>(p, stream);
    const int64_t sums = p.channels * (int64_t{p.kernel_h} * p.kernel_w + 1);
    launch(finish<T>, p, ceil_ratio(sums, kThreads), kThreads, 0, stream, kPackage);
  });
}

}  // namespace smpconv::depthwise
