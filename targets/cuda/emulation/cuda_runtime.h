// The part of CUDA that TVM's .cu files use, for one CPU thread: a launch runs its blocks one after the other, in an
// order drawn from a seed. With barriers, every CUDA thread is a fiber; one warp runs ahead as far as __syncthreads lets
// it, its lanes in a drawn order, so that a missing barrier shows as a wrong result. What is not here does not compile:
// an instruction without a description can never pass.
#pragma once
#include <dlfcn.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
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
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
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
constexpr unsigned kLanes = 32;
static std::mt19937 order(0);  // seeded by the driver
static cudaStream_t stream;     // that tvm_ffi's environment has, the only one to launch on
static void* kernel = nullptr;  // what runs, for messages
static bool barriers = false;   // whether the source has any: threads are fibers then

[[noreturn]] static inline void fail(const char* what) {
  Dl_info info{};
  if (kernel) dladdr(kernel, &info);
  fprintf(stderr, "%s in %s, block (%u, %u, %u), thread (%u, %u, %u)\n", what, info.dli_sname ? info.dli_sname : "the host program",
          blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  fflush(stderr);
  _Exit(3);
}

struct Copy {  // an asynchronous one under way
  char* to;
  const char* from;
  unsigned bytes;
  void end() const { memcpy(to, from, bytes); }
};

enum State { kReady, kAtBarrier, kAtInstruction, kDone };
typedef void (*Instruction)(void* const* operands);  // of a whole warp, each lane's by its pointer

struct Fiber {
  ucontext_t first;
  jmp_buf place;
  std::unique_ptr<char[]> stack{new char[kStack]};
  uint3 thread;
  State state;
  bool begun;
  Instruction instruction;
  void* operands;
  std::vector<Copy> copies;              // not yet in a group
  std::deque<std::vector<Copy>> groups;  // not yet waited for
};
static jmp_buf scheduler;
static Fiber* running = nullptr;
static const std::function<void()>* body = nullptr;

static inline uint3 at(unsigned index, const dim3& size) {
  uint3 place;
  place.x = index % size.x, place.y = index / size.x % size.y, place.z = index / size.x / size.y;
  return place;
}

// contexts only begin a fiber: going on by longjmp asks the operating system nothing
static void enter() {
  (*body)();
  running->state = kDone;
  _longjmp(scheduler, 1);
}

static inline void go_on(Fiber& f) {
  running = &f, threadIdx = f.thread;
  if (_setjmp(scheduler)) return;
  if (f.begun) _longjmp(f.place, 1);
  f.begun = true;
  setcontext(&f.first);
}

static inline void stop(State why) {
  if (!running) fail("a barrier or an instruction of a whole warp outside a kernel with barriers");
  running->state = why;
  if (!_setjmp(running->place)) _longjmp(scheduler, 1);
}

// all lanes meet, then the instruction exchanges what they brought
static inline void together(Instruction instruction, void* operands) {
  if (!running) fail("an instruction of a whole warp outside a kernel with barriers");
  running->instruction = instruction, running->operands = operands;
  stop(kAtInstruction);
}

static inline bool all(Fiber* const* lanes, unsigned count, State state) {
  return std::all_of(lanes, lanes + count, [=](Fiber* f) { return f->state == state; });
}

static inline void run_ahead(Fiber** lanes, unsigned count) {
  Fiber* by_number[kLanes];
  std::copy(lanes, lanes + count, by_number);
  for (;;) {
    std::shuffle(lanes, lanes + count, order);
    for (unsigned i = 0; i < count; ++i)
      if (lanes[i]->state == kReady) go_on(*lanes[i]);
    std::copy(by_number, by_number + count, lanes);
    if (std::none_of(lanes, lanes + count, [](Fiber* f) { return f->state == kAtInstruction; })) return;
    if (count != kLanes || !all(lanes, count, kAtInstruction)) fail("some lanes of a warp miss an instruction of the whole warp");
    void* operands[kLanes];
    for (unsigned i = 0; i < count; ++i) {
      if (lanes[i]->instruction != lanes[0]->instruction) fail("lanes of a warp meet at different instructions");
      operands[i] = lanes[i]->operands, lanes[i]->state = kReady;
    }
    lanes[0]->instruction(operands);
  }
}

static inline void block_with_barriers(unsigned count) {
  static std::vector<Fiber> fibers;
  if (fibers.size() < count) fibers.resize(count);
  std::vector<Fiber*> threads;
  for (unsigned t = 0; t < count; ++t) {
    Fiber& f = fibers[t];
    f.thread = at(t, blockDim), f.state = kReady, f.begun = false;
    f.copies.clear(), f.groups.clear();
    getcontext(&f.first);
    f.first.uc_stack.ss_sp = f.stack.get(), f.first.uc_stack.ss_size = kStack, f.first.uc_link = nullptr;
    makecontext(&f.first, enter, 0);
    threads.push_back(&f);
  }
  std::vector<unsigned> warps((count + kLanes - 1) / kLanes);
  std::iota(warps.begin(), warps.end(), 0u);
  for (;;) {
    std::shuffle(warps.begin(), warps.end(), order);
    for (unsigned w : warps) run_ahead(&threads[w * kLanes], std::min(kLanes, count - w * kLanes));
    if (all(threads.data(), count, kDone)) break;
    if (!all(threads.data(), count, kAtBarrier)) fail("some threads ended while others wait at __syncthreads");
    for (Fiber* f : threads) f->state = kReady;
  }
  running = nullptr;
}

static inline cudaError_t launch(const cudaLaunchConfig_t& config, void* function, const std::function<void()>& run) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const size_t count = size_t(block.x) * block.y * block.z;
  if (config.stream != stream) fail("a launch on another stream than that of tvm_ffi's environment");
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
      block_with_barriers(count);
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

static inline void __syncthreads() { emulated::stop(emulated::kAtBarrier); }

#include "instructions.h"

template <typename... Params, typename... Args>
static cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args... args) {
  return emulated::launch(*config, reinterpret_cast<void*>(kernel), [&] { kernel(args...); });
}
