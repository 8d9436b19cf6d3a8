// What fuzz.cpp decides by: the input as a stream of choices, and arrays that are exactly as large as they claim.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace fuzz {

inline void need(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

// The input as a stream of decisions; zeros once it is used up.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
  uint8_t byte() { return at_ < end_ ? *at_++ : 0; }
  bool one_in(int n) { return byte() % n == 0; }
  int below(int n) { return (byte() << 8 | byte()) % n; }
  int from(int low, int high) { return low + below(high - low + 1); }
  template <class T, size_t N>
  T of(const T (&values)[N]) { return values[static_cast<size_t>(below(static_cast<int>(N)))]; }
  uint64_t bits() {
    uint64_t all = 0;
    for (int i = 0; i < 8; i++) all = all << 8 | byte();
    return all;
  }
  // A number as an attacker would choose it.
  int32_t odd() {
    using Limits = std::numeric_limits<int32_t>;
    constexpr int32_t kOdd[] = {0,   1,    -1,   2,     3,     31,      32,      33,      64,      255,           256,
                                1024, 1025, 65535, 65536, 1 << 20, 1 << 22, 1 << 24, 1 << 30, Limits::max(),
                                Limits::min()};
    return one_in(4) ? static_cast<int32_t>(bits()) : of(kOdd);
  }
  float number() {
    constexpr float kOdd[] = {0.0f, -0.0f, 1.0f, -1.0f, 1e-45f, 1e-38f, 1e-6f, 0.5f, 1e4f, 3.4e38f, -3.4e38f, INFINITY,
                              -INFINITY, NAN};
    if (one_in(3)) return of(kOdd);
    return static_cast<float>(static_cast<int32_t>(bits())) * 0x1p-28f;
  }

 private:
  const uint8_t *at_, *end_;
};

// An allocation of exactly `count` values (the allocator's red zones begin behind the last). `align`: 0, or a divisor of its
// bytes.
template <class T>
class Exact {
 public:
  explicit Exact(size_t count, size_t align = 0) : count_(count) {
    const size_t bytes = std::max<size_t>(count, 1) * sizeof(T);
    data_ = static_cast<T*>(align ? std::aligned_alloc(align, bytes) : std::malloc(bytes));
    need(data_ != nullptr, "no memory for the input itself");
    std::memset(static_cast<void*>(data_), 0, bytes);
  }
  ~Exact() { std::free(data_); }
  Exact(const Exact&) = delete;
  Exact& operator=(const Exact&) = delete;
  T* data() { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  size_t size() const { return count_; }

 private:
  T* data_;
  size_t count_;
};

}  // namespace fuzz
