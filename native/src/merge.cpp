#include <sealift.h>

#include <algorithm>
#include <queue>
#include <vector>

#include "tokenizer.h"

namespace sealift {
namespace {

constexpr int64_t kShort = 48;  // ids; from there on a heap is the faster

// Quadratic, and fast for words as they are: everything lies in one cache line or a few.
int64_t merge_short(const Merges& merges, int32_t* ids, int64_t n) {
  const Merge* pairs[kShort] = {};  // [n - 1] of id i and the one behind it
  for (int64_t i = 0; i + 1 < n; i++) pairs[i] = merges.find(ids[i], ids[i + 1]);
  for (;;) {
    int64_t best = SL_NONE;
    for (int64_t i = 0; i + 1 < n; i++)
      if (pairs[i] && (best == SL_NONE || pairs[i] < pairs[best])) best = i;
    if (best == SL_NONE) return n;
    ids[best] = pairs[best]->whole;
    n--;
    for (int64_t i = best + 1; i < n; i++) {
      ids[i] = ids[i + 1];
      pairs[i - 1] = pairs[i];
    }
    pairs[best] = best + 1 < n ? merges.find(ids[best], ids[best + 1]) : nullptr;
    if (best > 0) pairs[best - 1] = merges.find(ids[best - 1], ids[best]);
  }
}

// A pair that could be merged when it was put into the heap; it may be gone by the time it comes out.
struct Candidate {
  const Merge* merge;
  int32_t at;  // of its left id

  bool operator<(const Candidate& other) const {  // std's heaps give the largest first
    return merge != other.merge ? merge > other.merge : at > other.at;
  }
};

// A word as a list that is linked both ways; ids that were merged into the one before them are SL_NONE.
class Word {
 public:
  Word(const Merges& merges, int32_t* ids, int32_t n)
      : merges_(merges), ids_(ids), n_(n), before_(static_cast<size_t>(n)), behind_(static_cast<size_t>(n)) {
    for (int32_t i = 0; i < n; i++) {
      before_[static_cast<size_t>(i)] = i - 1;
      behind_[static_cast<size_t>(i)] = i + 1;
    }
    for (int32_t i = 0; i < n; i++) offer(i);
  }

  void merge() {
    while (!heap_.empty()) {
      const Candidate best = heap_.top();
      heap_.pop();
      if (found(best.at) == best.merge) join(best);
    }
  }

 private:
  int32_t& behind(int32_t at) { return behind_[static_cast<size_t>(at)]; }

  const Merge* found(int32_t at) {
    if (at < 0 || ids_[at] == SL_NONE || behind(at) == n_) return nullptr;
    return merges_.find(ids_[at], ids_[behind(at)]);
  }

  void offer(int32_t at) {
    if (const Merge* merge = found(at)) heap_.push({merge, at});
  }

  void join(const Candidate& best) {
    const int32_t gone = behind(best.at), next = behind(gone);
    ids_[best.at] = best.merge->whole;
    ids_[gone] = SL_NONE;
    behind(best.at) = next;
    if (next < n_) before_[static_cast<size_t>(next)] = best.at;
    offer(best.at);
    offer(before_[static_cast<size_t>(best.at)]);
  }

  const Merges& merges_;
  int32_t* const ids_;
  const int32_t n_;
  std::vector<int32_t> before_, behind_;
  std::priority_queue<Candidate> heap_;
};

}  // namespace

int64_t merge_all(const Merges& merges, int32_t* ids, int64_t n) {
  if (n <= kShort) return merge_short(merges, ids, n);
  Word(merges, ids, static_cast<int32_t>(n)).merge();
  return std::remove(ids, ids + n, SL_NONE) - ids;
}

}  // namespace sealift
