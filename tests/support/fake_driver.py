"""A stand-in for NVIDIA's driver in C: its memory is the processor's, its contexts are a thread's stack of names."""

import ctypes
from pathlib import Path

import numpy as np

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
typedef unsigned long long ptr;
#define OURS (void *)0x1234567890
static void *contexts[8] = {0};
static int depth, live, fail;
static int current(void) { return contexts[depth] == OURS; }
void *fake_context(void) { return contexts[depth]; }
int fake_depth(void) { return depth; }
void fake_set_context(void *context) { contexts[depth] = context; }
int fake_fail(int code) { fail = code; return 0; }
int fake_live(void) { return live; }
int cuInit(unsigned flags) { return fail; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
  *context = OURS; return device == 7 ? 0 : 101; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Fake GPU", size); return 0; }
int cuCtxPushCurrent_v2(void *context) { contexts[++depth] = context; return context == OURS ? 0 : 201; }
int cuCtxPopCurrent_v2(void **context) { *context = contexts[depth--]; return *context == OURS ? 0 : 201; }
int cuMemAlloc_v2(ptr *p, size_t n) {
  if (fail) return fail;
  live++; *p = (ptr)aligned_alloc(256, (n + 255) / 256 * 256); return current() ? 0 : 201; }
int cuMemFree_v2(ptr p) { live--; free((void *)p); return current() ? 0 : 201; }
int cuMemcpyHtoD_v2(ptr to, const void *from, size_t n) { memcpy((void *)to, from, n); return current() ? 0 : 201; }
int cuMemcpyDtoH_v2(void *to, ptr from, size_t n) { memcpy(to, (void *)from, n); return current() ? 0 : 201; }
int cuGetErrorString(int code, const char **text) { *text = code == 2 ? "out of memory" : 0; return 0; }
"""


def live(fake: Path) -> int:
    """How many allocations of the stand-in have not been freed."""
    return ctypes.CDLL(str(fake)).fake_live()


def array(tensor) -> np.ndarray:
    """The memory of a tvm_ffi tensor whose GPU is the stand-in, flat and writable."""
    kinds = {"uint8": ctypes.c_uint8, "int8": ctypes.c_int8, "int32": ctypes.c_int32}
    return np.ctypeslib.as_array((kinds[str(tensor.dtype)] * tensor.shape[0]).from_address(tensor.data_ptr()))
