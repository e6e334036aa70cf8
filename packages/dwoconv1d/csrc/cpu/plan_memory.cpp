// What a plan allocates: weights and biases as the kernels read them, and each thread's scratch.
#include <memory>
#include <new>

#include "cpu/plan.h"

namespace dwoconv1d {
namespace {

template <class F>
auto with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::float64: return f(double());
    case DType::float16: return f(Half());
    case DType::bfloat16: return f(BFloat16());
    default: return f(float());
  }
}

}  // namespace

std::vector<unsigned char> Plan::weights(const void* weight, bool residual) const {
  std::vector<unsigned char> bytes(weights_ * number_ + 64);
  with_type(dtype_, [&](auto type) {
    using T = decltype(type);
    using A = typename AccumulatorOf<T>::type;
    A* out = reinterpret_cast<A*>(bytes.data());
    const int64_t step = lanes_ == Lanes::channels ? vector_ : 1;
    for (const Block& block : blocks_) {
      for (size_t p = block.first_piece; p < block.last_piece; ++p) {
        const std::vector<int64_t>& map = maps_[pieces_[p].map];
        const int64_t centre = residual ? map[reads_.taps / 2] : -1;
        for (int64_t c = pieces_[p].first; c < pieces_[p].first + pieces_[p].channels; ++c) {
          const T* in = static_cast<const T*>(weight) + c * reads_.taps;
          A* sums = out + block.weights + (c - block.first);
          for (int64_t s = 0; s < reads_.taps; ++s)
            if (map[s] >= 0) sums[map[s] * step] += widen(in[s]);
          if (centre >= 0) sums[centre * step] += A(1);
        }
      }
    }
  });
  return bytes;
}

std::vector<unsigned char> Plan::biases(const void* bias) const {
  std::vector<unsigned char> bytes((reads_.channels + vector_) * number_);
  if (bias == nullptr) return bytes;
  with_type(dtype_, [&](auto type) {
    using T = decltype(type);
    auto* out = reinterpret_cast<typename AccumulatorOf<T>::type*>(bytes.data());
    for (int64_t c = 0; c < reads_.channels; ++c) out[c] = widen(static_cast<const T*>(bias)[c]);
  });
  return bytes;
}

void* thread_scratch(size_t bytes) {
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(64)); }
  };
  static thread_local std::unique_ptr<void, Free> memory;
  static thread_local size_t size = 0;
  if (bytes > size) {
    size = 0;
    memory.reset();
    memory.reset(::operator new(bytes, std::align_val_t(64)));
    size = bytes;
  }
  return memory.get();
}

}  // namespace dwoconv1d
