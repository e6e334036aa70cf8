// The CUDA kernels and launches of rasterize as C functions, for test_cuda_source.py: compiled by g++ with
// tests/emulator.
#include <map>

#include "cuda/rasterize_kernel.cu"

namespace smpconv::points {

template <typename T>
void add(std::map<std::string, void (*)(Params)>* kernels, const std::string& type) {
  auto& k = *kernels;
  k["spread<" + type + ", 1>"] = spread<T, 1>;
  k["spread<" + type + ", 4>"] = spread<T, 4>;
  k["gather<" + type + ">"] = gather<T>;
}

}  // namespace smpconv::points

extern "C" {

using smpconv::DType;
using namespace smpconv::points;

void set_order(int order) { emulator_order = order; }
int params_size() { return sizeof(Params); }
int stage_bytes(int wide) { return wide ? sizeof(Stage<double>) : sizeof(Stage<float>); }
int list_bytes(int wide) { return wide ? sizeof(List<double>) : sizeof(List<float>); }

void launch(const char* name, const Params* params, long long blocks, int shared_bytes) {
  std::map<std::string, void (*)(Params)> kernels;
  add<float>(&kernels, "float");
  add<double>(&kernels, "double");
  add<leanconv::Half>(&kernels, "leanconv::Half");
  add<leanconv::BFloat16>(&kernels, "leanconv::BFloat16");
  if (kernels.count(name) == 0) emulator::fail("no such kernel");
  leanconv::launch(kernels[name], *params, blocks, smpconv::kThreads, shared_bytes, nullptr, smpconv::kPackage);
}

// What the compiled library does with sizes and pointers that are already set.
void plan(Params* params) { plan_spread(params); }
long long blocks(const Params* params) { return spread_blocks(*params); }
void native(const char* name, const Params* params, int dtype) {
  if (std::string(name) == "spread") return launch_spread(*params, static_cast<DType>(dtype), nullptr);
  launch_gather(*params, static_cast<DType>(dtype), nullptr);
}

}  // extern "C"
