// Plans and launches the kernels of the traversal. No torch header: compiles in seconds per architecture.
#include "common/host.cuh"
#include "cuda/traverse_conv1d_kernel.cuh"
#include "cuda/traverse_kernel.h"

namespace pathconv::traversal {
namespace {

using leanconv::ceil_ratio;
using leanconv::even_part;
using leanconv::with_dtype;

constexpr int64_t kBlocksWanted = 4096;     // of traverse: beyond, blocks serve several images; the same on every GPU
constexpr int64_t kSumBlocksWanted = 1024;  // of the weight gradient
constexpr int64_t kMaxImages = 16;          // per block
constexpr int64_t kMaxSplits = 512;
constexpr int64_t kSides = 32 * 1024;  // bytes of shared memory for the two sides of a sum
constexpr int64_t kMaxDepth = 32;
constexpr int64_t kMaxCount = 0x7fff0000;  // leaves room for a tile

int64_t elements_of(const Params& p) { return static_cast<int64_t>(p.outputs) * p.length; }

int64_t positions_of(const Params& p) { return static_cast<int64_t>(p.batch) * p.length; }

void plan_images(Params* p) {
  const int64_t blocks = ceil_ratio(elements_of(*p), kThreads) * p->batch;
  p->images = std::min({std::max<int64_t>(blocks / kBlocksWanted, 1), kMaxImages, int64_t{p->batch}});
}

void plan_convolve(Params* params, DType dtype, bool channels_last) {
  Params& p = *params;
  // A warp's writes are neighbours where threads run along the target's fastest dimension.
  const int64_t per_thread = channels_last ? kFast : kSlow, limit = channels_last ? 32 : 8;
  p.output_threads = even_part(ceil_ratio(p.outputs, per_thread), limit);
  p.other_threads = std::min<int64_t>(kThreads / p.output_threads, 128);
  const int64_t tiles = p.output_threads * per_thread + p.other_threads * (kFast + kSlow - per_thread);
  const int64_t fitting = kSides / (tiles * sum_bytes_of(dtype)), terms = static_cast<int64_t>(p.paths) * p.channels;
  p.depth = std::max<int64_t>(std::min({fitting, terms, kMaxDepth}), 1);
  p.shared_bytes = p.depth * tiles * sum_bytes_of(dtype);
}

bool sums_channels_last(const Params& p) { return p.grad_c == 1 && p.grad_l != 1 && p.outputs > 1; }

bool reads_vectors(const Params& p, int64_t bytes) {
  const bool last = sums_channels_last(p);
  const int64_t fast = last ? p.grad_c : p.grad_l, slow = last ? p.grad_l : p.grad_c;
  const int64_t size = last ? p.outputs : p.length, address = reinterpret_cast<int64_t>(p.grad);
  return fast == 1 && (size | slow | p.grad_n) % 4 == 0 && address % (4 * bytes) == 0;
}

int64_t sum_tiles(const Params& p) {
  return ceil_ratio(p.outputs, p.output_threads * kSumOutputs) *
         ceil_ratio(static_cast<int64_t>(p.paths) * p.channels + 1, p.other_threads * kSumTerms);
}

template <typename T>
void traverse_as(const Params& p, bool channels_last, bool adjoint, void* stream) {
  const auto kernel = adjoint ? (channels_last ? traverse_adjoint<T, true> : traverse_adjoint<T, false>)
                              : (channels_last ? traverse<T, true> : traverse<T, false>);
  const int64_t blocks = ceil_ratio(elements_of(p), kThreads) * ceil_ratio(p.batch, p.images);
  leanconv::launch(kernel, p, blocks, kThreads, 0, stream, kPackage);
}

template <typename T>
void convolve_as(const Params& p, bool channels_last, void* stream) {
  const int64_t outputs = p.output_threads * (channels_last ? kFast : kSlow);
  const int64_t positions = p.other_threads * (channels_last ? kSlow : kFast);
  leanconv::launch(channels_last ? convolve<T, true> : convolve<T, false>, p,
                   ceil_ratio(p.outputs, outputs) * ceil_ratio(positions_of(p), positions), kThreads, p.shared_bytes,
                   stream, kPackage);
}

template <typename T>
void weight_sums_as(const Params& p, void* stream) {
  leanconv::launch(sums_channels_last(p) ? reduce<T, true> : reduce<T, false>, p, sum_tiles(p) * p.splits, kThreads,
                   p.shared_bytes, stream, kPackage);
  const int64_t sums = p.outputs * (static_cast<int64_t>(p.paths) * p.channels + 1);
  leanconv::launch(finish<T>, p, ceil_ratio(sums, kWarps), kThreads, 0, stream, kPackage);
}

}  // namespace

bool representable(int64_t batch, int64_t channels, int64_t paths, int64_t length, int64_t outputs) {
  const int64_t sizes[] = {batch, channels, paths, length, outputs};
  if (*std::max_element(sizes, sizes + 5) > kMaxCount) return false;
  return paths * channels <= kMaxCount && outputs * length <= kMaxCount;
}

void launch_traverse(Params params, DType dtype, bool channels_last, bool adjoint, void* stream) {
  plan_images(&params);
  with_dtype(dtype, [&](auto t) { traverse_as<decltype(t)>(params, channels_last, adjoint, stream); });
}

void launch_convolve(Params params, DType dtype, bool channels_last, void* stream) {
  plan_convolve(&params, dtype, channels_last);
  with_dtype(dtype, [&](auto t) { convolve_as<decltype(t)>(params, channels_last, stream); });
}

void plan_weight_sums(Params* params, DType dtype) {
  Params& p = *params;
  const int64_t terms = static_cast<int64_t>(p.paths) * p.channels + 1;
  p.output_threads = even_part(ceil_ratio(p.outputs, kSumOutputs), 8);
  p.other_threads = even_part(ceil_ratio(terms, kSumTerms), 4);
  const int64_t slice_threads = p.output_threads * p.other_threads, slices = kThreads / slice_threads;
  p.depth = std::max<int64_t>(slices, 64) / 4 * 4;
  const int64_t sides = p.depth * (p.output_threads * kSumOutputs + p.other_threads * kSumTerms);
  p.shared_bytes = std::max(sides, slices * slice_threads * kSumOutputs * kSumTerms) * sum_bytes_of(dtype);
  p.vectors = reads_vectors(p, bytes_of(dtype));
  const int64_t most = std::min({kSumBlocksWanted / sum_tiles(p), ceil_ratio(positions_of(p), p.depth), kMaxSplits});
  p.splits = std::max<int64_t>(most, 1);
}

void launch_weight_sums(const Params& params, DType dtype, void* stream) {
  with_dtype(dtype, [&](auto t) { weight_sums_as<decltype(t)>(params, stream); });
}

}  // namespace pathconv::traversal

std::string pathconv::compiled_archs() { return leanconv::compiled_archs(); }
