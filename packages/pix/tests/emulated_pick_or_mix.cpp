// The CUDA kernels and launches over feature maps as C functions, for test_cuda_source.py: compiled by g++ with
// tests/emulator.
#include <map>

#include "cuda/pick_or_mix_kernel.cu"

namespace pix::maps {

using Kernels = std::map<std::string, void (*)(Params)>;

template <typename T, int Width>
void add_width(Kernels* kernels, const std::string& type) {
  const std::string arguments = "<" + type + ", " + std::to_string(Width) + ">";
  (*kernels)["pick_planes" + arguments] = pick_planes<T, Width>;
  (*kernels)["scatter_planes" + arguments] = scatter_planes<T, Width>;
  (*kernels)["sum_planes" + arguments] = sum_planes<T, Width>;
  (*kernels)["sum_small_planes" + arguments] = sum_small_planes<T, Width>;
  (*kernels)["sum_pixels" + arguments] = sum_pixels<T, Width>;
}

template <typename T, int Zeta>
void add_zeta(Kernels* kernels, const std::string& type) {
  const std::string arguments = "<" + type + ", " + std::to_string(Zeta) + ">";
  (*kernels)["pick_pixels" + arguments] = pick_pixels<T, Zeta>;
  (*kernels)["scatter_pixels" + arguments] = scatter_pixels<T, Zeta>;
}

template <typename T>
void add(Kernels* kernels, const std::string& type) {
  add_width<T, kWide<T>>(kernels, type);
  add_width<T, 4>(kernels, type);
  add_width<T, 1>(kernels, type);
  add_zeta<T, 0>(kernels, type);
  add_zeta<T, 1>(kernels, type);
  add_zeta<T, 2>(kernels, type);
  add_zeta<T, 4>(kernels, type);
  add_zeta<T, 8>(kernels, type);
  (*kernels)["pick_packed<" + type + ">"] = pick_packed<T>;
  (*kernels)["scatter_packed<" + type + ">"] = scatter_packed<T>;
  (*kernels)["finish<" + type + ">"] = finish<T>;
}

}  // namespace pix::maps

extern "C" {

using pix::DType;
using namespace pix::maps;

void set_order(int order) { emulator_order = order; }
int params_size() { return sizeof(Params); }

void launch(const char* name, const Params* params, long long blocks, int shared_bytes) {
  Kernels kernels;
  add<float>(&kernels, "float");
  add<double>(&kernels, "double");
  add<leanconv::Half>(&kernels, "leanconv::Half");
  add<leanconv::BFloat16>(&kernels, "leanconv::BFloat16");
  if (kernels.count(name) == 0) emulator::fail("no such kernel");
  leanconv::launch(kernels[name], *params, blocks, pix::kThreads, shared_bytes, nullptr, pix::kPackage);
}

// What the compiled library does with sizes and pointers that are already set.
void plan(const char* name, Params* params, int dtype, int last) {
  const std::string kernel = name;
  if (kernel == "sums") return plan_sums(params, static_cast<DType>(dtype), last);
  if (kernel == "scatter") return plan_scatter(params, static_cast<DType>(dtype), last);
  plan_subsets(params, static_cast<DType>(dtype), last, false);
}
void native(const char* name, const Params* params, int dtype, int last) {
  const std::string kernel = name;
  if (kernel == "sum") return launch_sums(*params, static_cast<DType>(dtype), last, nullptr);
  if (kernel == "scatter") return launch_scatter(*params, static_cast<DType>(dtype), last, nullptr);
  launch_pick(*params, static_cast<DType>(dtype), last, nullptr);
}

}  // extern "C"
