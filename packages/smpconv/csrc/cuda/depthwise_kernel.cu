// Plans and launches the forward pass and the input's gradient. No torch header: compiles in seconds per architecture.
#include "cuda/depthwise_plan.cuh"

namespace smpconv::depthwise {
namespace {

constexpr int64_t kMaxCount = 1 << 30;
constexpr int64_t kMaxSegments = 4;
constexpr int64_t kMaxRows = 32;
constexpr int64_t kLastChannels = 4;     // of a block, where they are neighbours in memory
constexpr int64_t kFewRows = 8;          // of the kernel at once: many more cost little less
constexpr int64_t kFewBlocks = 256;      // with fewer, a GPU has multiprocessors to spare
constexpr int64_t kBlocksWanted = 1024;  // the same on every GPU

constexpr Instance kConvolve[] = {{28, 1, false}, {16, 2, false}, {8, 4, false},
                                  {28, 1, true},  {14, 2, true},  {8, 4, true}};

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

int64_t convolve_blocks(const Params& p) {
  return ceil_ratio(p.channels, p.group) * ceil_ratio(p.width, p.segments * p.sums) * ceil_ratio(p.height, p.rows) *
         ceil_ratio(p.batch, p.images * p.copies);
}

// Rows of one image, then images, as far as there are threads.
void plan_tile(Params* params, int64_t threads) {
  Params& p = *params;
  p.rows = even_part(p.height, std::min(kMaxRows, threads / p.group));
  p.images = even_part(ceil_ratio(p.batch, p.copies), threads / (p.group * p.rows));
}

// Whole rows if they can be, then images, then channels. What does not fit into shared memory is first of all rows of
// the kernel: to read pixels again takes less time than to share fewer rows with one's warp.
void plan_convolve(Params* params, DType dtype, bool last) {
  Params& p = *params;
  const int64_t bytes = sum_bytes_of(dtype);
  p.last = last;
  choose(kConvolve, &p, cost_of);
  p.segments = even_part(ceil_ratio(p.width, p.sums), kMaxSegments);
  const int64_t threads = std::min<int64_t>(kThreads, kMaxShared / ((p.sums * p.copies | 1) * bytes)) / p.segments;
  p.group = last ? std::min<int64_t>(p.channels, kLastChannels) : 1;
  plan_tile(&p, threads);
  if (convolve_blocks(p) < kFewBlocks) {
    p.group = 1;
    plan_tile(&p, threads);
  }
  p.kernel_rows = p.kernel_h;
  const int64_t spare = std::min(threads / (p.rows * p.images), convolve_blocks(p) * p.group / kBlocksWanted);
  p.group = even_part(p.channels, std::max<int64_t>(spare, p.group));
  while (ConvolveLayout(p).numbers() * bytes > kMaxShared) {
    if (p.kernel_rows > kFewRows) {
      p.kernel_rows = half(p.kernel_rows);
    } else if (p.images > 1) {
      --p.images;
    } else {
      int* most = p.group > 1 ? &p.group : p.kernel_rows > 1 ? &p.kernel_rows : &p.rows;
      if (*most == 1) break;
      *most = half(*most);
    }
  }
  p.shared_bytes = ConvolveLayout(p).numbers() * bytes;
}

template <typename T, int Sums, int Copies, bool Crossed>
void convolve_as(const Params& p, void* stream) {
  launch(convolve<T, Sums, Copies, Crossed>, p, convolve_blocks(p), kThreads, p.shared_bytes, stream, kPackage);
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
      if (p.sums == 14) return convolve_as<T, 14, 2, true>(p, stream);
      return convolve_as<T, 8, 4, true>(p, stream);
    }
    if (p.sums == 28) return convolve_as<T, 28, 1, false>(p, stream);
    if (p.sums == 16) return convolve_as<T, 16, 2, false>(p, stream);
    convolve_as<T, 8, 4, false>(p, stream);
  });
}

}  // namespace smpconv::depthwise
