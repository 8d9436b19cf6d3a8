// Zeroed, 64-byte aligned memory with one owner. Large pieces are untouched pages of the system until written: a cache
// pool costs what is used of it.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sealift {

template <class T>
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t count) : count_(count) {
    if (count < 0 || count > INT64_MAX / static_cast<int64_t>(2 * sizeof(T))) throw std::bad_alloc();
    base_.reset(std::calloc(static_cast<size_t>(count) * sizeof(T) + kAlign, 1));
    if (!base_) throw std::bad_alloc();
  }
  T* data() const {
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(base_.get()) + kAlign - 1) / kAlign * kAlign);
  }
  // For memory that is read in pieces of a few KiB all over: with small pages each piece costs a walk of the page table.
  // Advice: where it fails or is unknown only speed is lost. What lies on a touched page of 2 MiB becomes resident.
  void prefer_huge_pages() const {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t kHuge = uintptr_t{2} << 20;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data()) + kHuge - 1) / kHuge * kHuge;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data()) + static_cast<uintptr_t>(bytes())) / kHuge * kHuge;
    if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
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
