// The CUDA kernels and launches of the depthwise convolution as C functions, for test_cuda_source.py: compiled by g++
// with tests/emulator.
#include <map>

#include "cuda/depthwise_conv1d_kernel.cu"

namespace pathconv::depthwise {

template <typename T>
void add(std::map<std::string, void (*)(Params)>* kernels, const std::string& type) {
  auto& k = *kernels;
  k["correlate<" + type + ", false>"] = correlate<T, false>;
  k["correlate<" + type + ", true>"] = correlate<T, true>;
  k["reduce<" + type + ", false>"] = reduce<T, false>;
  k["reduce<" + type + ", true>"] = reduce<T, true>;
  k["finish<" + type + ">"] = finish<T>;
}

}  // namespace pathconv::depthwise

extern "C" {

using pathconv::DType;
using namespace pathconv::depthwise;

void set_order(int order) { emulator_order = order; }
int params_size() { return sizeof(Params); }

void launch(const char* name, const Params* params, long long blocks, int shared_bytes) {
  std::map<std::string, void (*)(Params)> kernels;
  pathconv::depthwise::add<float>(&kernels, "float");
  pathconv::depthwise::add<double>(&kernels, "double");
  pathconv::depthwise::add<leanconv::Half>(&kernels, "leanconv::Half");
  pathconv::depthwise::add<leanconv::BFloat16>(&kernels, "leanconv::BFloat16");
  if (kernels.count(name) == 0) emulator::fail("no such kernel");
  leanconv::launch(kernels[name], *params, blocks, pathconv::kThreads, shared_bytes, nullptr, "pathconv");
}

// What the compiled library does with sizes, strides and pointers that are already set.
void plan(Params* params, int dtype) { plan_correlate(params, static_cast<DType>(dtype)); }
void plan_sums(Params* params, int dtype) { plan_weight_sums(params, static_cast<DType>(dtype)); }
void native(const char* name, const Params* params, int dtype) {
  if (std::string(name) == "correlate") return launch_correlate(*params, static_cast<DType>(dtype), nullptr);
  launch_weight_sums(*params, static_cast<DType>(dtype), nullptr);
}

}  // extern "C"
