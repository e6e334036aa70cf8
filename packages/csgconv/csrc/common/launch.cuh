// edit in shared/common/native/launch.cuh
// Launching a kernel that takes one params struct, with errors a user can act on. Host side; included by .cu files
// alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace leanconv {

// Shared memory that a block gets without asking.
constexpr int64_t kDefaultShared = 48 * 1024;

#ifdef __CUDA_ARCH_LIST__
#define LEANCONV_TEXT_OF(...) #__VA_ARGS__
#define LEANCONV_TEXT(...) LEANCONV_TEXT_OF(__VA_ARGS__)
constexpr const char* kArchList = LEANCONV_TEXT((__CUDA_ARCH_LIST__));  // "(750,800,900)"
#else
constexpr const char* kArchList = "()";
#endif

// The architectures this library holds machine code for, "sm_75, sm_80, sm_90".
inline std::string compiled_archs() {
  std::string names;
  for (const char* digit = kArchList + 1; *digit != ')';) {
    std::string arch;
    for (; *digit != ',' && *digit != ')'; ++digit) arch += *digit;
    if (*digit == ',') ++digit;
    names += (names.empty() ? "sm_" : ", sm_") + arch.substr(0, arch.size() - 1);  // the last digit is always 0
  }
  return names;
}

inline void check(cudaError_t error, const char* package) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // taken back: torch would blame its own next kernel
  std::string message = std::string(package) + ": CUDA says '" + cudaGetErrorString(error) + "'";
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    const std::string capability = std::to_string(major) + "." + std::to_string(minor);
    message += ". Its kernels were compiled for " + compiled_archs() + ", this GPU has compute capability " +
               capability + ". Build it again with TORCH_CUDA_ARCH_LIST=" + capability;
  }
  throw std::runtime_error(message + ".");
}

// The most shared memory a block may ask for on `device`.
inline int64_t shared_limit(int device, const char* package) {
  int bytes = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), package);
  return bytes;
}

// Queues kernel(params) on `stream`; grids are one-dimensional, so the 65535 limit of y and z never matters.
template <typename Params>
void launch(void (*kernel)(Params), const Params& params, int64_t blocks, int threads, int64_t shared_bytes,
            void* stream, const char* package) {
  if (blocks > 0x7fffffff)
    throw std::runtime_error(std::string(package) + ": the tensor is too large for one CUDA grid.");
  if (shared_bytes > kDefaultShared) {
    // Always the GPU's limit: threads that set what they need would take it away from each other before their launches.
    int device = 0;
    check(cudaGetDevice(&device), package);
    const int most = static_cast<int>(shared_limit(device, package));
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), package);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  check(cudaLaunchKernelEx(&config, kernel, params), package);
}

}  // namespace leanconv
