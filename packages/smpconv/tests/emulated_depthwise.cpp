// The CUDA kernels and launches of the depthwise convolution as C functions, for test_cuda_depthwise.py: compiled by
// g++ with tests/emulator.
#include <map>

#include "cuda/depthwise_kernel.cu"
#include "cuda/depthwise_sums.cu"

namespace smpconv::depthwise {

using Kernels = std::map<std::string, void (*)(Params)>;

template <typename T, int Sums, int Copies, bool Crossed>
void add_convolve(Kernels* kernels, const std::string& type) {
  (*kernels)["convolve<" + type + ", " + std::to_string(Sums) + ", " + std::to_string(Copies) + ", " +
             (Crossed ? "true>" : "false>")] = convolve<T, Sums, Copies, Crossed>;
}

template <typename T, int Sums, bool Crossed>
void add_grad_weight(Kernels* kernels, const std::string& type) {
  (*kernels)["grad_weight<" + type + ", " + std::to_string(Sums) + ", " + (Crossed ? "true>" : "false>")] =
      grad_weight<T, Sums, Crossed>;
}

template <typename T>
void add(Kernels* kernels, const std::string& type) {
  add_convolve<T, 28, 1, false>(kernels, type);
  add_convolve<T, 16, 2, false>(kernels, type);
  add_convolve<T, 8, 4, false>(kernels, type);
  add_convolve<T, 28, 1, true>(kernels, type);
  add_convolve<T, 14, 2, true>(kernels, type);
  add_convolve<T, 8, 4, true>(kernels, type);
  add_grad_weight<T, 32, false>(kernels, type);
  add_grad_weight<T, 16, false>(kernels, type);
  add_grad_weight<T, 8, false>(kernels, type);
  add_grad_weight<T, 16, true>(kernels, type);
  add_grad_weight<T, 14, true>(kernels, type);
  add_grad_weight<T, 8, true>(kernels, type);
  (*kernels)["finish<" + type + ">"] = finish<T>;
}

}  // namespace smpconv::depthwise

extern "C" {

using smpconv::DType;
using namespace smpconv::depthwise;

void set_order(int order) { emulator_order = order; }
int params_size() { return sizeof(Params); }

void launch(const char* name, const Params* params, long long blocks, int shared_bytes) {
  Kernels kernels;
  add<float>(&kernels, "float");
  add<double>(&kernels, "double");
  add<leanconv::Half>(&kernels, "leanconv::Half");
  add<leanconv::BFloat16>(&kernels, "leanconv::BFloat16");
  if (kernels.count(name) == 0) emulator::fail("no such kernel");
  leanconv::launch(kernels[name], *params, blocks, smpconv::kThreads, shared_bytes, nullptr, smpconv::kPackage);
}

// What the compiled library does with sizes and pointers that are already set.
void plan(const char* name, Params* params, int dtype, int last) {
  if (std::string(name) == "convolve") return plan_convolve(params, static_cast<DType>(dtype), last);
  plan_grad_weight(params, static_cast<DType>(dtype), last);
}
void native(const char* name, const Params* params, int dtype, int last) {
  if (std::string(name) == "convolve") return launch_convolve(*params, static_cast<DType>(dtype), last, nullptr);
  launch_grad_weight(*params, static_cast<DType>(dtype), last, nullptr);
}

}  // extern "C"
