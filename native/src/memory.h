// Zeroed, 64-byte aligned memory with one owner. Large pieces are untouched pages of the system until written: a cache
// pool costs what is used of it.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace sealift {

template <class T>
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t count) : count_(count) {
    base_.reset(std::calloc(static_cast<size_t>(count) * sizeof(T) + kAlign, 1));
    if (!base_) throw std::bad_alloc();
  }
  T* data() const {
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(base_.get()) + kAlign - 1) / kAlign * kAlign);
  }
  int64_t size() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

 private:
  static constexpr uintptr_t kAlign = 64;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> base_;
  int64_t count_ = 0;
};

}  // namespace sealift
