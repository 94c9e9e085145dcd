// Runs the `main` of one .cu file on the CPU: reads sizes, weights and table once, then pictures, from standard input;
// writes the logits of each. Buffers lie between pages without access, inputs are read-only; every call has a stream of
// its own.
#include <prelude.h>

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define __CUDA_ARCH__ EMULATED_ARCH
#include EMULATED_SOURCE

namespace {

constexpr unsigned char kCanary = 0xA5;
constexpr size_t kGuard = 1 << 20;  // bytes without access on both sides of a buffer

struct Buffer {
  const char* name;
  size_t bytes;
  char *base, *data;
  size_t mapped;
};
Buffer buffers[5];

void read_all(void* to, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t got = read(0, static_cast<char*>(to) + done, bytes - done);
    if (got <= 0) _Exit(0);  // the runner has closed the pipe
    done += got;
  }
}

void write_all(const void* from, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t put = write(1, static_cast<const char*>(from) + done, bytes - done);
    if (put <= 0) _Exit(0);
    done += put;
  }
}

// 64-byte aligned and as near to the end of its pages as that allows
Buffer make(const char* name, size_t bytes) {
  const size_t page = sysconf(_SC_PAGESIZE), room = (bytes + 63) / 64 * 64, mapped = (room + page - 1) / page * page;
  char* whole = static_cast<char*>(mmap(nullptr, mapped + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  char* base = whole + kGuard;
  mprotect(base, mapped, PROT_READ | PROT_WRITE);
  memset(base, kCanary, mapped);
  return {name, bytes, base, base + mapped - room, mapped};
}

void protect(const Buffer& b, bool writable) { mprotect(b.base, b.mapped, writable ? PROT_READ | PROT_WRITE : PROT_READ); }

void check_margins(const Buffer& b) {
  for (char* p = b.base; p < b.base + b.mapped; ++p)
    if ((p < b.data || p >= b.data + b.bytes) && static_cast<unsigned char>(*p) != kCanary) {
      fprintf(stderr, "wrote %s the buffer %s of %zu bytes\n", p < b.data ? "before" : "after", b.name, b.bytes);
      _Exit(3);
    }
}

void on_signal(int signal, siginfo_t* info, void*) {
  static char what[200];
  const char* address = static_cast<const char*>(info->si_addr);
  snprintf(what, sizeof what, signal == SIGILL ? "signed overflow, shift by too much or index out of a local array"
                                               : "access outside every buffer");
  for (const Buffer& b : buffers)
    if (signal != SIGILL && address >= b.base - kGuard && address < b.base + b.mapped + kGuard) {
      snprintf(what, sizeof what, "access at byte %td of the buffer %s of %zu bytes, or a write into an input",
               address - b.data, b.name, b.bytes);
      break;
    }
  emulated::fail(what);
}

}  // namespace

int main(int, char** arguments) {
  struct sigaction action {};
  action.sa_sigaction = on_signal, action.sa_flags = SA_SIGINFO | SA_NODEFER;
  for (int signal : {SIGSEGV, SIGBUS, SIGILL}) sigaction(signal, &action, nullptr);
  emulated::order.seed(atoi(arguments[1]));
  emulated::barriers = EMULATED_BARRIERS;

  const char* names[5] = {"picture", "weights", "table", "workspace", "logits"};
  const DLDataType types[5] = {{kDLUInt, 8, 1}, {kDLInt, 8, 1}, {kDLInt, 32, 1}, {kDLUInt, 8, 1}, {kDLInt, 32, 1}};
  int64_t counts[5];
  DLTensor tensors[5];
  TVMFFIAny args[5];
  read_all(counts, sizeof counts);
  for (int i = 0; i < 5; ++i) {
    buffers[i] = make(names[i], counts[i] * types[i].bits / 8);
    tensors[i] = {buffers[i].data, {kDLCUDA, 0}, 1, types[i], &counts[i], nullptr, 0};
    args[i].type_index = kTVMFFIDLTensorPtr, args[i].zero_padding = 0, args[i].v_ptr = &tensors[i];
  }
  for (int i : {1, 2}) {
    read_all(buffers[i].data, buffers[i].bytes);
    protect(buffers[i], false);
  }
  for (uintptr_t stream = 0x57AE;;) {
    protect(buffers[0], true);
    read_all(buffers[0].data, buffers[0].bytes);
    protect(buffers[0], false);
    for (int i : {3, 4})  // what a kernel forgets to write shows
      for (size_t k = 0; k < buffers[i].bytes; ++k) buffers[i].data[k] = static_cast<char>(emulated::order());
    TVMFFIAny result{};
    emulated::stream = reinterpret_cast<cudaStream_t>(++stream);
    TVMFFIEnvSetStream(kDLCUDA, 0, emulated::stream, nullptr);
    if (__tvm_ffi_main(nullptr, args, 5, &result) != 0) {
      fprintf(stderr, "main reported %s\n", tvm::ffi::details::MoveFromSafeCallRaised().what());
      _Exit(3);
    }
    for (const Buffer& b : buffers) check_margins(b);
    write_all(buffers[4].data, buffers[4].bytes);
  }
}
