// The part of CUDA that TVM's .cu files use, for one CPU thread: a launch runs its blocks one after the other, in an
// order drawn from a seed. With barriers, every CUDA thread is a fiber that runs ahead as far as __syncthreads lets it,
// again in a drawn order, so that a missing barrier shows as a wrong result. What is not here does not compile: an
// instruction without a description can never pass.
#pragma once
#include <dlfcn.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("emulated_shared")))

struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

enum cudaError_t { cudaSuccess = 0, cudaErrorCudartUnloading = 4, cudaErrorInvalidConfiguration = 9, cudaErrorNotSupported = 801 };
typedef void* cudaStream_t;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
static inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
static inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration" : "cudaErrorNotSupported";
}
static inline const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

extern "C" __attribute__((weak)) char __start_emulated_shared[], __stop_emulated_shared[];

namespace emulated {

constexpr size_t kStack = 128 << 10;
static std::mt19937 order(0);  // seeded by the driver
static void* kernel = nullptr;  // what runs, for messages

[[noreturn]] static inline void fail(const char* what) {
  Dl_info info{};
  if (kernel) dladdr(kernel, &info);
  fprintf(stderr, "%s in %s, block (%u, %u, %u), thread (%u, %u, %u)\n", what, info.dli_sname ? info.dli_sname : "the host program",
          blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  fflush(stderr);
  _Exit(3);
}

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  uint3 thread;
  bool done = false, waiting = false;
};
static ucontext_t scheduler;
static Fiber* running = nullptr;
static const std::function<void()>* body = nullptr;

static inline uint3 at(unsigned index, const dim3& size) {
  uint3 place;
  place.x = index % size.x, place.y = index / size.x % size.y, place.z = index / size.x / size.y;
  return place;
}

static void enter() {
  (*body)();
  running->done = true;
  swapcontext(&running->context, &scheduler);
}

static inline void block_with_barriers(const std::vector<unsigned>& threads) {
  static std::vector<Fiber> fibers;
  if (fibers.size() < threads.size()) fibers.resize(threads.size());
  std::vector<Fiber*> ready, waiting;
  for (unsigned t : threads) {
    Fiber& f = fibers[t];
    f.thread = at(t, blockDim), f.done = f.waiting = false;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = kStack, f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
    ready.push_back(&f);
  }
  size_t finished = 0;
  while (!ready.empty()) {
    std::swap(ready[order() % ready.size()], ready.back());
    running = ready.back(), ready.pop_back();
    threadIdx = running->thread;
    swapcontext(&scheduler, &running->context);
    if (running->done) ++finished;
    else waiting.push_back(running);
    if (ready.empty() && !waiting.empty()) {
      if (finished) fail("some threads ended while others wait at __syncthreads");
      ready.swap(waiting);
    }
  }
  running = nullptr;
}

static inline cudaError_t launch(const cudaLaunchConfig_t& config, void* function, bool barriers, const std::function<void()>& run) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const size_t count = size_t(block.x) * block.y * block.z;
  if (config.dynamicSmemBytes) return cudaErrorNotSupported;
  if (!count || count > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535 ||
      grid.x > 2147483647u)
    return cudaErrorInvalidConfiguration;
  gridDim = grid, blockDim = block, kernel = function, body = &run;
  std::vector<unsigned> blocks(size_t(grid.x) * grid.y * grid.z), threads(count);
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::iota(threads.begin(), threads.end(), 0u);
  std::shuffle(blocks.begin(), blocks.end(), order);
  std::shuffle(threads.begin(), threads.end(), order);
  for (unsigned b : blocks) {
    blockIdx = at(b, grid);
    if (__start_emulated_shared) memset(__start_emulated_shared, 0xA5, __stop_emulated_shared - __start_emulated_shared);
    if (barriers) {
      block_with_barriers(threads);
      continue;
    }
    for (unsigned t : threads) {
      threadIdx = at(t, block);
      run();
    }
  }
  kernel = nullptr;
  return cudaSuccess;
}

}  // namespace emulated

static inline void __syncthreads() {
  if (!emulated::running) emulated::fail("__syncthreads outside a kernel with barriers");
  emulated::Fiber* self = emulated::running;
  swapcontext(&self->context, &emulated::scheduler);
  threadIdx = self->thread;
}

template <typename... Params, typename... Args>
static cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args... args) {
  return emulated::launch(*config, reinterpret_cast<void*>(kernel), EMULATED_BARRIERS, [&] { kernel(args...); });
}
