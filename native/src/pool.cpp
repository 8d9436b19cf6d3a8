#include "pool.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "errors.h"

namespace sealift {
namespace {

// How long a thread looks before it sleeps. A wake costs about 5 us on the machines of DESIGN 11 and the serial parts
// of a step last a few; 40 us covers them and costs a neighbour little. Measured 2026-11, AMD EPYC, 2 cores.
constexpr std::chrono::microseconds kSpin{40};
constexpr int kLooksPerClock = 64;  // reading the clock costs tens of cycles: look this often between two readings
constexpr int64_t kChunksPerThread = 16;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True as soon as ready() holds, false when the spinning time is over.
template <class Ready>
bool spin(Ready ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kLooksPerClock; i++) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace

Pool::Pool(int threads) : threads_(threads) {
  workers_.reserve(static_cast<size_t>(threads_ - 1));
  try {
    for (int w = 1; w < threads_; w++) workers_.emplace_back([this, w] { serve(w); });
  } catch (const std::system_error&) {
    stop();
    throw Error(SL_NOMEM, "cannot start " + std::to_string(threads_) + " threads: the system refused one");
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  stopping_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& t : workers_) t.join();
  workers_.clear();
}

void Pool::run(int64_t n, const std::function<void(int64_t, int)>& task) {
  if (n <= 0) return;
  if (threads_ == 1 || n == 1) {
    for (int64_t i = 0; i < n; i++) task(i, 0);
    return;
  }
  task_ = &task;
  n_ = n;
  chunk_ = std::max<int64_t>(1, n / (threads_ * kChunksPerThread));
  chunks_ = (n + chunk_ - 1) / chunk_;
  unfinished_.store(static_cast<int32_t>(chunks_), std::memory_order_relaxed);
  unclaimed_.store(chunks_);  // publishes the job; seq_cst with `sleepers_`: either we see a sleeper or it sees the job
  if (sleepers_.load() > 0) {
    epoch_.fetch_add(1);
    epoch_.notify_all();
  }
  work(0);
  wait_for_others();
}

// Claims and does chunks until none is left. True if it did any.
// Only `unclaimed_` is read before a claim, so a late thread either claims a chunk of the job that is current at that
// moment or nothing; once it holds a claim that job cannot end, so its fields are stable. The release store in run()
// heads the chain of decrements, so a claim (acquire) sees the fields.
bool Pool::work(int worker) {
  bool any = false;
  int64_t left = unclaimed_.load(std::memory_order_relaxed);
  while (left > 0) {
    if (!unclaimed_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel, std::memory_order_relaxed))
      continue;
    const int64_t begin = (chunks_ - left) * chunk_, end = std::min(n_, begin + chunk_);
    for (int64_t i = begin; i < end; i++) (*task_)(i, worker);
    any = true;
    // Release: the caller's acquire of 0 sees what this chunk wrote. seq_cst with `caller_waits_`, as for sleepers.
    if (unfinished_.fetch_sub(1) == 1 && worker != 0 && caller_waits_.load() != 0) unfinished_.notify_one();
    left = unclaimed_.load(std::memory_order_relaxed);
  }
  return any;
}

void Pool::wait_for_others() {
  if (spin([this] { return unfinished_.load(std::memory_order_acquire) == 0; })) return;
  caller_waits_.store(1);
  for (int32_t left = unfinished_.load(); left != 0; left = unfinished_.load()) unfinished_.wait(left);
  caller_waits_.store(0);
}

void Pool::serve(int worker) {
  const auto wanted = [this] {
    return unclaimed_.load(std::memory_order_relaxed) > 0 || stopping_.load(std::memory_order_relaxed);
  };
  while (!stopping_.load()) {
    if (work(worker) || spin(wanted)) continue;
    const int32_t epoch = epoch_.load();
    sleepers_.fetch_add(1);
    if (unclaimed_.load() <= 0 && !stopping_.load()) epoch_.wait(epoch);
    sleepers_.fetch_sub(1);
  }
}

}  // namespace sealift
