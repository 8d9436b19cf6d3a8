// A thread pool for work of microseconds that must survive a busy neighbour.
//
// Work is claimed from one counter, caller included, so a thread that the kernel has not scheduled costs nothing but
// its own speed: the others take its share. The caller only ever waits for pieces that another thread has begun.
// An idle worker spins for a bounded time (the next piece of a step is usually microseconds away), then sleeps.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace sealift {

class Pool {
 public:
  explicit Pool(int threads);  // threads >= 1, the caller of run() included; throws Error if they cannot be started
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Runs task(i, worker) for every i in [0, n), worker in [0, threads()), and returns when all are done.
  // One caller at a time; a task must not throw and must not call run().
  void run(int64_t n, const std::function<void(int64_t i, int worker)>& task);

 private:
  bool work(int worker);
  void wait_for_others();
  void serve(int worker);
  void stop();

  const int threads_;
  // The job. Written by run() before `unclaimed_` is stored; read only by a thread that holds a claim.
  const std::function<void(int64_t, int)>* task_ = nullptr;
  int64_t n_ = 0, chunk_ = 1, chunks_ = 0;
  alignas(64) std::atomic<int64_t> unclaimed_{0};   // chunks nobody has begun; a claim is a decrement
  alignas(64) std::atomic<int32_t> unfinished_{0};  // chunks not done; run() returns at 0
  alignas(64) std::atomic<int32_t> epoch_{0};       // moves when sleepers must look again
  std::atomic<int32_t> sleepers_{0};
  std::atomic<int32_t> caller_waits_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

}  // namespace sealift
