// The CUDA kernels and launches over vectors as C functions, for test_cuda_source.py: compiled by g++ with
// tests/emulator.
#include <map>

#include "cuda/pix_kernel.cu"

namespace pix::gates {

template <typename T>
void add(std::map<std::string, void (*)(Params)>* kernels, const std::string& type) {
  auto& k = *kernels;
  k["gate<" + type + ", 1>"] = gate<T, 1>;
  k["gate<" + type + ", 2>"] = gate<T, 2>;
  k["gate<" + type + ", 4>"] = gate<T, 4>;
  k["products<" + type + ">"] = products<T>;
}

}  // namespace pix::gates

extern "C" {

using pix::DType;
using namespace pix::gates;

void set_order(int order) { emulator_order = order; }
int params_size() { return sizeof(Params); }

void launch(const char* name, const Params* params, long long blocks, int shared_bytes) {
  std::map<std::string, void (*)(Params)> kernels;
  add<float>(&kernels, "float");
  add<double>(&kernels, "double");
  add<leanconv::Half>(&kernels, "leanconv::Half");
  add<leanconv::BFloat16>(&kernels, "leanconv::BFloat16");
  if (kernels.count(name) == 0) emulator::fail("no such kernel");
  leanconv::launch(kernels[name], *params, blocks, pix::kThreads, shared_bytes, nullptr, pix::kPackage);
}

// What the compiled library does with sizes and pointers that are already set.
void plan_gates(Params* params) { plan(params); }
void native(const char* name, const Params* params, int dtype) {
  if (std::string(name) == "gate") return launch_gate(*params, static_cast<DType>(dtype), nullptr);
  launch_products(*params, static_cast<DType>(dtype), nullptr);
}

}  // extern "C"
