// Plans and launches the layer's kernels over vectors. No torch header: compiles in seconds per architecture.
#include "common/host.cuh"
#include "cuda/pix_kernel.cuh"
#include "cuda/pix_kernel.h"

namespace pix::gates {
namespace {

using leanconv::ceil_ratio;
using leanconv::launch;
using leanconv::with_dtype;

constexpr int64_t kWarpsWanted = 1024;

void plan(Params* params) {
  Params& p = *params;
  p.vectors =
      p.channels % kLane == 0 && (reinterpret_cast<int64_t>(p.weight) | reinterpret_cast<int64_t>(p.z)) % 16 == 0;
  const int64_t results = int64_t{p.batch} * p.outputs;
  p.tile = results >= 16 * kWarpsWanted ? 4 : results >= 4 * kWarpsWanted ? 2 : 1;
}

template <typename T, int Tile>
void gate_as(const Params& p, void* stream) {
  constexpr int64_t kSamples = kSampleWarps<Tile> * Tile, kOutputs = kWarps / kSampleWarps<Tile> * Tile;
  const int64_t blocks = ceil_ratio(p.batch, kSamples) * ceil_ratio(p.outputs, kOutputs);
  launch(gate<T, Tile>, p, blocks, kThreads, 0, stream, kPackage);
}

template <typename T>
void products_as(const Params& p, void* stream) {
  const int64_t rows = ceil_ratio(p.batch, kRows) + ceil_ratio(p.outputs, kRows);
  const int64_t shared = kWarps * kAdded * kColumns * sizeof(Accumulator<T>);
  launch(products<T>, p, rows * ceil_ratio(p.channels, kColumns), kThreads, shared, stream, kPackage);
}

}  // namespace

void launch_gate(Params params, DType dtype, void* stream) {
  plan(&params);
  with_dtype(dtype, [&](auto t) {
    if (params.tile == 4) return gate_as<decltype(t), 4>(params, stream);
    if (params.tile == 2) return gate_as<decltype(t), 2>(params, stream);
    gate_as<decltype(t), 1>(params, stream);
  });
}

void launch_products(Params params, DType dtype, void* stream) {
  plan(&params);
  with_dtype(dtype, [&](auto t) { products_as<decltype(t)>(params, stream); });
}

}  // namespace pix::gates
