// The CUDA kernels and launches of the traversal as C functions, for test_cuda_source.py: compiled by g++ with
// tests/emulator.
#include <map>

#include "cuda/traverse_kernel.cu"

namespace pathconv::traversal {

template <typename T>
void add(std::map<std::string, void (*)(Params)>* kernels, const std::string& type) {
  auto& k = *kernels;
  k["traverse<" + type + ", false>"] = traverse<T, false>;
  k["traverse<" + type + ", true>"] = traverse<T, true>;
  k["traverse_adjoint<" + type + ", false>"] = traverse_adjoint<T, false>;
  k["traverse_adjoint<" + type + ", true>"] = traverse_adjoint<T, true>;
  k["convolve<" + type + ", false>"] = convolve<T, false>;
  k["convolve<" + type + ", true>"] = convolve<T, true>;
  k["reduce<" + type + ", false>"] = reduce<T, false>;
  k["reduce<" + type + ", true>"] = reduce<T, true>;
  k["finish<" + type + ">"] = finish<T>;
}

}  // namespace pathconv::traversal

extern "C" {

using pathconv::DType;
using namespace pathconv::traversal;

void set_order(int order) { emulator_order = order; }
int params_size() { return sizeof(Params); }

void launch(const char* name, const Params* params, long long blocks, int shared_bytes) {
  std::map<std::string, void (*)(Params)> kernels;
  pathconv::traversal::add<float>(&kernels, "float");
  pathconv::traversal::add<double>(&kernels, "double");
  pathconv::traversal::add<leanconv::Half>(&kernels, "leanconv::Half");
  pathconv::traversal::add<leanconv::BFloat16>(&kernels, "leanconv::BFloat16");
  if (kernels.count(name) == 0) emulator::fail("no such kernel");
  leanconv::launch(kernels[name], *params, blocks, pathconv::kThreads, shared_bytes, nullptr, "pathconv");
}

// What the compiled library does with sizes, strides and pointers that are already set.
void plan(Params* params, int dtype, int channels_last) {  // of all launches, one after the other
  plan_images(params);
  plan_convolve(params, static_cast<DType>(dtype), channels_last);
}
void plan_sums(Params* params, int dtype) { plan_weight_sums(params, static_cast<DType>(dtype)); }
void native(const char* name, const Params* params, int dtype, int channels_last) {
  const std::string kernel = name;
  if (kernel == "convolve") return launch_convolve(*params, static_cast<DType>(dtype), channels_last, nullptr);
  if (kernel == "reduce") return launch_weight_sums(*params, static_cast<DType>(dtype), nullptr);
  launch_traverse(*params, static_cast<DType>(dtype), channels_last, kernel == "traverse_adjoint", nullptr);
}

}  // extern "C"
