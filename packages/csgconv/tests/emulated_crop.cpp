// The CUDA kernels and launches of crop and uncrop as C functions, for test_cuda_source.py: compiled by g++ with
// tests/emulator.
#include <cstring>
#include <map>

#include "cuda/crop_kernel.cu"

extern "C" {

using csgconv::Layer;
using namespace csgconv::copies;

void set_order(int order) { emulator_order = order; }
long long place(const Part* part, long long at, int crops) {
  return crops ? place_in_slices(*part, at) : place_in_kernel(*part, at);
}
int params_size() { return sizeof(Params); }

void launch(const char* name, const Params* params, long long blocks) {
  const std::map<std::string, void (*)(Params)> kernels = {
      {"crop<unsigned short>", crop<unsigned short>},
      {"crop<unsigned>", crop<unsigned>},
      {"crop<unsigned long long>", crop<unsigned long long>},
      {"uncrop<unsigned short>", uncrop<unsigned short>},
      {"uncrop<unsigned>", uncrop<unsigned>},
      {"uncrop<unsigned long long>", uncrop<unsigned long long>},
  };
  if (kernels.count(name) == 0) emulator::fail("no such kernel");
  leanconv::launch(kernels.at(name), *params, blocks, kThreads, 0, nullptr, kPackage);
}

// What the compiled library does with layers and pointers; `crops` says which way.
int plan(const Layer* layers, int count, const Copy* copy, int crops, Params* params, long long* blocks) {
  const std::vector<Layer> all(layers, layers + count);
  const auto launches = crops ? plan_crop(all, *copy) : plan_uncrop(all, *copy);
  for (size_t i = 0; i < launches.size(); ++i) {
    std::memcpy(&params[i], &launches[i].params, sizeof(Params));
    blocks[i] = launches[i].blocks;
  }
  return static_cast<int>(launches.size());
}
void native(const Layer* layers, int count, const Copy* copy, int crops) {
  const std::vector<Layer> all(layers, layers + count);
  if (crops) return launch_crop(all, *copy, nullptr);
  launch_uncrop(all, *copy, nullptr);
}

}  // extern "C"
