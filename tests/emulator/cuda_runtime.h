// Runs CUDA source on the CPU, to test what it computes on machines without a GPU. It says nothing about speed.
//
// g++ compiles a kernel and its launcher with this header in the place of CUDA's own (see __init__.py). Blocks run one
// after another, each thread of a block as a fibre that runs until the next barrier, shuffle or ballot: one legal order
// of many. `emulator_order` picks another one, so that a race shows as a different result: a warp runs as far ahead of
// the others as it can. Shared memory starts as NaN in every block, and a guard behind it tells whether a block wrote
// past what it asked for. What a program may not do ends it with a message: threads that part before a barrier, lanes
// missing from a warp's operation, more shared memory than was asked for.
//
// Covered: one-dimensional grids launched by cudaLaunchKernelEx, dynamic shared memory through
// leanconv::dynamic_shared,
// __syncthreads, __syncwarp, full-warp shuffles and ballots, int atomics on shared memory. Add what a kernel needs.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define LEANCONV_EMULATOR
#define __device__
#define __host__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __align__(n)
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace leanconv {
constexpr size_t kEmulatedShared = 227 * 1024, kEmulatedGuard = 4096;
alignas(16) inline unsigned char shared_memory[kEmulatedShared + kEmulatedGuard];
}  // namespace leanconv

// 0: blocks, warps and threads in order, 1: in reverse, others: seed of a new order at every step; odd seeds let warps
// keep pace.
inline int emulator_order = 0;

namespace emulator {

enum class State { ready, at_block, at_warp, done };

struct Fibre {
  ucontext_t start;
  jmp_buf here;
  bool begun = false;
  std::unique_ptr<char[]> stack{new char[kStack]};
  State state = State::ready;
  static constexpr size_t kStack = 128 * 1024;
};

inline std::vector<Fibre> fibres;
inline jmp_buf scheduler;
inline unsigned running;
inline std::function<void()> body;
inline std::mt19937 random_order;
inline unsigned char exchange[2][32 * 64][16];  // what a lane shows its warp, two rounds deep
inline std::vector<unsigned> rounds;

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "CUDA emulator: %s (block %u, thread %u)\n", why, blockIdx.x, running);
  std::abort();
}

// Jumps, as swapcontext asks the operating system for the signal mask, twice for each thread and barrier.
__attribute__((noinline)) inline void pause(State state) {
  Fibre& self = fibres[running];
  self.state = state;
  if (_setjmp(self.here) == 0) _longjmp(scheduler, 1);
}

inline void run_fibre() {
  while (true) {
    body();
    pause(State::done);  // until the next block
  }
}

// Runs a thread up to its next pause.
__attribute__((noinline)) inline void resume(Fibre& fibre) {
  if (_setjmp(scheduler)) return;
  if (fibre.begun) _longjmp(fibre.here, 1);
  fibre.begun = true;
  getcontext(&fibre.start);
  fibre.start.uc_stack = {fibre.stack.get(), 0, Fibre::kStack};
  makecontext(&fibre.start, run_fibre, 0);
  setcontext(&fibre.start);
}

inline std::vector<unsigned> order(size_t count) {
  std::vector<unsigned> indices(count);
  std::iota(indices.begin(), indices.end(), 0u);
  if (emulator_order == 1) std::reverse(indices.begin(), indices.end());
  if (emulator_order > 1) std::shuffle(indices.begin(), indices.end(), random_order);
  return indices;
}

inline bool all(size_t begin, size_t end, State state) {
  return std::all_of(fibres.begin() + begin, fibres.begin() + end, [=](const Fibre& f) { return f.state == state; });
}

inline void release(size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) fibres[i].state = State::ready;
}

// Runs the threads of a warp up to their next barrier, shuffle or ballot; returns whether there is more to run.
inline bool run_warp(unsigned begin, unsigned end) {
  bool moved = false;
  for (const unsigned i : order(end - begin)) {
    if (fibres[begin + i].state != State::ready) continue;
    moved = true;
    running = begin + i;
    threadIdx = dim3(running);
    resume(fibres[running]);
  }
  if (!all(begin, end, State::at_warp)) return moved;
  release(begin, end);
  return true;
}

inline void run_block(unsigned threads) {
  release(0, threads);
  while (!all(0, threads, State::done)) {
    bool moved = false;
    for (const unsigned warp : order((threads + 31) / 32)) {
      while (run_warp(warp * 32, std::min(warp * 32 + 32, threads))) {
        moved = true;
        if (emulator_order > 1 && emulator_order % 2) break;  // the other warps first
      }
    }
    if (all(0, threads, State::at_block)) release(0, threads), moved = true;
    if (!moved) fail("threads wait for others that never arrive");
  }
}

template <typename Call>
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, Call call) {
  using namespace leanconv;
  if (grid.x == 0 || block.x == 0 || block.x > 1024 || block.x % 32 || shared_bytes > kEmulatedShared)
    fail("no such launch");
  if (fibres.size() < block.x) fibres = std::vector<Fibre>(block.x);
  gridDim = grid, blockDim = block, body = call;
  random_order.seed(emulator_order);
  rounds.assign(block.x, 0);
  for (const unsigned index : order(grid.x)) {
    blockIdx = dim3(index);
    std::memset(shared_memory, 0xff, shared_bytes + kEmulatedGuard);  // NaN in every float type
    run_block(block.x);
    const unsigned char* guard = shared_memory + shared_bytes;
    if (std::any_of(guard, guard + kEmulatedGuard, [](unsigned char c) { return c != 0xff; })) {
      fail("a block wrote past its shared memory");
    }
  }
}

// Shows `value` to the warp and returns what `lane` showed. Two rounds alternate: no lane can be two rounds ahead.
template <typename T>
T swap_with(T value, unsigned lane) {
  static_assert(sizeof(T) <= 16, "too wide to exchange");
  const unsigned self = threadIdx.x, first = self / 32 * 32;
  auto* shown = exchange[rounds[self]++ & 1];
  std::memcpy(shown[self], &value, sizeof(T));
  pause(State::at_warp);
  T other;
  std::memcpy(&other, shown[first + lane], sizeof(T));
  return other;
}

}  // namespace emulator

[[noreturn]] inline void __trap() { emulator::fail("a kernel gave up"); }
inline void __syncthreads() { emulator::pause(emulator::State::at_block); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::pause(emulator::State::at_warp); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::swap_with(value, (threadIdx.x & 31) ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int distance) {
  const int lane = threadIdx.x & 31;
  return emulator::swap_with(value, lane < distance ? lane : lane - distance);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, int distance) {
  const int lane = threadIdx.x & 31;
  return emulator::swap_with(value, lane + distance > 31 ? lane : lane + distance);
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulator::swap_with(value, lane & 31);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  const auto* shown = emulator::exchange[emulator::rounds[threadIdx.x] & 1];
  emulator::swap_with(predicate, 0);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) votes |= unsigned(shown[threadIdx.x / 32 * 32 + lane][0]) << lane;
  return votes;
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }
template <typename To, typename From>
To emulator_bits(From value) {
  To result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}
inline float __uint_as_float(unsigned bits) { return emulator_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return emulator_bits<unsigned>(value); }
inline float emulator_half_to_float(unsigned short bits) { return emulator_bits<_Float16>(bits); }
inline unsigned short emulator_float_to_half(float value) {
  return emulator_bits<unsigned short>(static_cast<_Float16>(value));
}

// The host side of a launch, for common/launch.cuh.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction };
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 8;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
inline int emulator_shared_limit = leanconv::kEmulatedShared;  // smaller: as an older GPU
inline const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = emulator_shared_limit, cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int) {
  return cudaSuccess;
}
template <typename... Expected, typename... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...), Actual&&... args) {
  if (config->dynamicSmemBytes > static_cast<size_t>(emulator_shared_limit))
    emulator::fail("more shared memory than the GPU has");
  emulator::run_grid(config->gridDim, config->blockDim, config->dynamicSmemBytes, [&] { kernel(args...); });
  return cudaSuccess;
}
