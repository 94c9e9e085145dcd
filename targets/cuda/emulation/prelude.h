// What every source needs, before anything that differs between sources: compiled once for many.
#pragma once
#include <cuda_runtime.h>
#include <math.h>
#include <tvm/ffi/c_api.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/extra/cuda/device_guard.h>
#include <tvm/ffi/function.h>
