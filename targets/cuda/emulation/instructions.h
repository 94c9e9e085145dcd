// What the PTX instructions in our sources do (PTX ISA 9.0, sections 9.7.14.5 and 9.7.9.25.3), in terms of registers.
#pragma once

// address in the shared state space: from its start
static inline uint32_t __cvta_generic_to_shared(const void* p) {
  return static_cast<uint32_t>(static_cast<const char*>(p) - __start_emulated_shared);
}

namespace emulated {

// d = a * b + d, a 16xK row by row, b Kx8 column by column, d 16x8. With (g, t) = divmod(lane, 4) and w codes to a
// word, a lane holds of a the words (row g, word t), (g + 8, t), (g, t + 4), (g + 8, t + 4), of b the words (column g,
// word t), (g, t + 4), of d the values (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
struct Matrices {
  int* d[4];
  unsigned a[4], b[2];
};

template <int kBits, bool kSigned>
static inline int code(unsigned word, int i) {
  const unsigned raw = word >> (kBits * i) & ((1u << kBits) - 1);
  return kSigned && raw >> (kBits - 1) ? static_cast<int>(raw) - (1 << kBits) : static_cast<int>(raw);
}

template <int kK, int kBits, bool kASigned, bool kBSigned>
static void multiply(void* const* lanes) {
  constexpr int kCodes = 32 / kBits;
  static_assert(kK == 8 * kCodes, "eight words of K");
  short a[16][kK], b[8][kK];
  for (int lane = 0; lane < 32; ++lane) {
    const Matrices& m = *static_cast<const Matrices*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < kCodes; ++i) {
      for (int half = 0; half < 2; ++half) {
        const int k = (t + 4 * half) * kCodes + i;
        a[g][k] = code<kBits, kASigned>(m.a[2 * half], i);
        a[g + 8][k] = code<kBits, kASigned>(m.a[2 * half + 1], i);
        b[g][k] = code<kBits, kBSigned>(m.b[half], i);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const Matrices& m = *static_cast<const Matrices*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      int sum = 0;
      for (int k = 0; k < kK; ++k) sum += a[row][k] * b[column][k];
      if (__builtin_add_overflow(*m.d[i], sum, m.d[i])) fail("signed overflow in a matrix instruction");
    }
  }
}

template <int kK, int kBits, bool kASigned, bool kBSigned>
static inline void mma(int& d0, int& d1, int& d2, int& d3, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  Matrices m{{&d0, &d1, &d2, &d3}, {a0, a1, a2, a3}, {b0, b1}};
  together(multiply<kK, kBits, kASigned, kBSigned>, &m);
}

// Copies end at any time until their group is waited for: by a draw, at once or as late as that.
template <unsigned kBytes>
static inline void copy_async(uint32_t to, const void* from) {
  char* target = __start_emulated_shared + to;
  if (!running) fail("an asynchronous copy outside a kernel with barriers");
  if (reinterpret_cast<uintptr_t>(from) % kBytes || reinterpret_cast<uintptr_t>(target) % kBytes) fail("an asynchronous copy off its alignment");
  if (target < __start_emulated_shared || target + kBytes > __stop_emulated_shared) fail("an asynchronous copy outside shared memory");
  const Copy copy{target, static_cast<const char*>(from), kBytes};
  if (order() & 1) copy.end();
  else running->copies.push_back(copy);
}

static inline void commit_group() {
  running->groups.push_back(std::move(running->copies));
  running->copies.clear();
}

template <size_t kLeft>
static inline void wait_group() {
  for (; running->groups.size() > kLeft; running->groups.pop_front())
    for (const Copy& copy : running->groups.front()) copy.end();
}

}  // namespace emulated
