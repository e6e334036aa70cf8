// The CUDA kernels and launches of the oriented 1D convolution as C functions, for test_cuda_source.py: compiled by g++
// with tests/emulator.
#include <map>

#include "cuda/oriented_conv1d_kernel.cu"

namespace dwoconv1d {

using Kernels = std::map<std::string, void (*)(Params)>;

template <typename T>
void add(Kernels* kernels, const std::string& type) {
  Kernels& k = *kernels;
  k["gather<" + type + ", false>"] = gather<T, false>;
  k["gather<" + type + ", true>"] = gather<T, true>;
  k["reduce<" + type + ", false, 8>"] = reduce<T, false, 8>;
  k["reduce<" + type + ", false, 32>"] = reduce<T, false, 32>;
  k["reduce<" + type + ", true, 8>"] = reduce<T, true, 8>;
  k["reduce<" + type + ", true, 32>"] = reduce<T, true, 32>;
  k["finish<" + type + ">"] = finish<T>;
}

}  // namespace dwoconv1d

extern "C" {

using dwoconv1d::DType;
using dwoconv1d::Params;

void set_order(int order) { emulator_order = order; }
void set_shared_limit(int bytes) { emulator_shared_limit = bytes; }
int params_size() { return sizeof(Params); }

void launch(const char* name, const Params* params, long long blocks, int shared_bytes) {
  dwoconv1d::Kernels kernels;
  dwoconv1d::add<float>(&kernels, "float");
  dwoconv1d::add<double>(&kernels, "double");
  dwoconv1d::add<leanconv::Half>(&kernels, "leanconv::Half");
  dwoconv1d::add<leanconv::BFloat16>(&kernels, "leanconv::BFloat16");
  if (kernels.count(name) == 0) emulator::fail("no such kernel");
  leanconv::launch(kernels[name], *params, blocks, dwoconv1d::kThreads, shared_bytes, nullptr, "dwoconv1d");
}

// What the compiled library does with sizes, strides and pointers that are already set.
void plan(Params* params, int dtype, int weight_sums) { make_plan(params, static_cast<DType>(dtype), weight_sums, 0); }
void native_gather(const Params* params, int dtype) { launch_gather(*params, static_cast<DType>(dtype), nullptr); }
void native_grad_weight(const Params* params, int dtype) {
  launch_grad_weight(*params, static_cast<DType>(dtype), nullptr);
}

}  // extern "C"
