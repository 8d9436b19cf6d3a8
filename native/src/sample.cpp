#include "sample.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <string>

#include "errors.h"

namespace sealift {
namespace {

constexpr float kGreedyBelow = 1e-6f;  // a temperature this low cannot be told from 0 in float32 logits
constexpr int64_t kScan = 128;         // logits looked at together when searching the largest
constexpr int64_t kFirstGuess = 256;   // candidates tried first for top_p; then 8 times as many

constexpr int32_t kWord = 32;  // tokens in a word of a mask

// What of a mask's word `w` lies in the vocabulary.
uint32_t inside(int32_t w, int32_t vocab) {
  const int32_t n = vocab - w * kWord;
  return n >= kWord ? ~0u : (1u << n) - 1;
}

bool allows_any(const uint32_t* mask, int32_t vocab) {
  for (int32_t w = 0; w * kWord < vocab; w++)
    if (mask[w] & inside(w, vocab)) return true;
  return false;
}

void forbid(float* logits, int32_t vocab, const uint32_t* mask) {
  for (int32_t w = 0; w * kWord < vocab; w++) {
    uint32_t forbidden = ~mask[w] & inside(w, vocab);
    float* at = logits + w * kWord;
    if (forbidden == ~0u) std::fill_n(at, kWord, -INFINITY);
    else
      for (; forbidden; forbidden &= forbidden - 1) at[__builtin_ctz(forbidden)] = -INFINITY;
  }
}

bool before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

// The k best finite logits in descending order, ties by id. A heap holds the best so far; most runs of kScan logits
// have no value above its worst and cost one vector maximum.
void largest(const Bodies& bodies, const float* logits, int64_t n, int64_t k, std::vector<Candidate>& out) {
  out.clear();
  const size_t most = static_cast<size_t>(k);
  for (int64_t begin = 0; begin < n; begin += kScan) {
    const int64_t end = std::min(n, begin + kScan);
    if (out.size() == most && !(bodies.max_of(logits + begin, end - begin) > out.front().logit)) continue;
    for (int64_t i = begin; i < end; i++) {
      const Candidate c{logits[i], static_cast<int32_t>(i)};
      if (c.logit == -INFINITY) continue;
      if (out.size() < most) {
        out.push_back(c);
        std::push_heap(out.begin(), out.end(), before);
      } else if (c.logit > out.front().logit) {  // an equal logit comes later, so it is worse
        std::pop_heap(out.begin(), out.end(), before);
        out.back() = c;
        std::push_heap(out.begin(), out.end(), before);
      }
    }
  }
  std::sort_heap(out.begin(), out.end(), before);
}

void change_logits(float* logits, int32_t vocab, const sl_sampling& s, SampleScratch& scratch) {
  for (int32_t i = 0; i < s.n_bias; i++) logits[s.bias_ids[i]] += s.bias_values[i];
  if (s.mask) forbid(logits, vocab, s.mask);
  if (s.repeat_penalty == 1 && s.presence_penalty == 0 && s.frequency_penalty == 0) return;
  std::vector<int32_t>& seen = scratch.history;
  seen.assign(s.history, s.history + s.n_history);
  std::sort(seen.begin(), seen.end());
  for (size_t i = 0, next; i < seen.size(); i = next) {
    for (next = i + 1; next < seen.size() && seen[next] == seen[i];) next++;
    double logit = logits[seen[i]];  // double: options may be as large as floats are
    logit = logit > 0 ? logit / s.repeat_penalty : logit * s.repeat_penalty;
    logit -= static_cast<double>(next - i) * s.frequency_penalty + s.presence_penalty;
    if (logits[seen[i]] != -INFINITY) logits[seen[i]] = static_cast<float>(std::clamp(logit, -double{FLT_MAX},
        double{FLT_MAX}));
  }
}

double uniform(uint64_t seed, int32_t position) {
  const auto word = philox({static_cast<uint32_t>(position), 0, 0, 0},
                           {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<double>((static_cast<uint64_t>(word[0]) << 32 | word[1]) >> 11) * 0x1p-53;
}

// Fewer than all tokens remain, in descending order; weights are not normalised.
class Narrow {
 public:
  Narrow(const Bodies& bodies, const float* logits, int64_t vocab, float max, float scale, SampleScratch& scratch)
      : bodies_(bodies), logits_(logits), vocab_(vocab), max_(max), scale_(scale), s_(scratch) {}

  int32_t choose(const sl_sampling& s, double u) {
    const bool limited = s.top_k > 0 && s.top_k < vocab_;
    if (limited || s.typical_p < 1) {
      take(limited ? s.top_k : vocab_);
      if (s.typical_p < 1) keep_typical(s.typical_p);
      if (s.top_p < 1) keep_mass(s.top_p, total_);
    } else {
      take_mass(s.top_p);
    }
    keep_min(s.min_p);
    double left = u * total_;
    for (size_t i = 0; i + 1 < s_.candidates.size(); i++) {
      left -= s_.weights[i];
      if (left < 0) return s_.candidates[i].id;
    }
    return s_.candidates.back().id;
  }

 private:
  void take(int64_t k) {
    largest(bodies_, logits_, vocab_, k, s_.candidates);
    s_.logits.resize(s_.candidates.size());
    s_.weights.resize(s_.candidates.size());
    for (size_t i = 0; i < s_.candidates.size(); i++) s_.logits[i] = s_.candidates[i].logit;
    total_ = bodies_.exp_sum(s_.logits.data(), static_cast<int64_t>(s_.logits.size()), max_, scale_, s_.weights.data());
  }

  // The best tokens that together hold `mass` of all, without sorting the vocabulary.
  void take_mass(float mass) {
    const double all = bodies_.exp_sum(logits_, vocab_, max_, scale_, nullptr);
    for (int64_t k = kFirstGuess;; k *= 8) {
      take(std::min(k, vocab_));
      if (total_ >= mass * all || k >= vocab_) break;
    }
    keep_mass(mass, all);
  }

  // The shortest beginning whose weight reaches `mass` of `all`, at least one token.
  void keep_mass(float mass, double all) {
    double sum = 0;
    size_t n = 0;
    while (n < s_.candidates.size() && (n == 0 || sum < mass * all)) sum += s_.weights[n++];
    cut(n, sum);
  }

  // Tokens at least min_p times as likely as the likeliest.
  void keep_min(float min_p) {
    double sum = 0;
    size_t n = 0;
    while (n < s_.candidates.size() && (n == 0 || s_.weights[n] >= min_p * s_.weights[0])) sum += s_.weights[n++];
    cut(n, sum);
  }

  void cut(size_t n, double sum) {
    s_.candidates.resize(n);
    s_.weights.resize(n);
    total_ = sum;
  }

  // Locally typical (Meister et al. 2022): the tokens whose surprise is nearest to the entropy, until they hold `mass`.
  void keep_typical(float mass) {
    const size_t n = s_.candidates.size();
    double entropy = 0;
    std::vector<double> surprise(n);
    for (size_t i = 0; i < n; i++) {
      const double p = s_.weights[i] / total_;
      surprise[i] = p > 0 ? -std::log(p) : INFINITY;
      if (p > 0) entropy += p * surprise[i];
    }
    std::vector<size_t> order(n);
    for (size_t i = 0; i < n; i++) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return std::abs(surprise[a] - entropy) < std::abs(surprise[b] - entropy);
    });
    double sum = 0;
    size_t kept = 0;
    while (kept < n && (kept == 0 || sum < mass * total_)) sum += s_.weights[order[kept++]];
    std::sort(order.begin(), order.begin() + static_cast<int64_t>(kept));  // back to descending logits
    for (size_t i = 0; i < kept; i++) {
      s_.candidates[i] = s_.candidates[order[i]];
      s_.weights[i] = s_.weights[order[i]];
    }
    cut(kept, sum);
  }

  const Bodies& bodies_;
  const float* logits_;
  int64_t vocab_;
  float max_, scale_;
  SampleScratch& s_;
  double total_ = 0;
};

// No filter but min_p: tokens in the order of their ids, nothing sorted.
int32_t choose_wide(const Bodies& bodies, const float* logits, int32_t vocab, float max, float scale, float min_p,
    double u,
                    SampleScratch& scratch) {
  std::vector<float>& weights = scratch.weights;
  weights.resize(static_cast<size_t>(vocab));
  double total = bodies.exp_sum(logits, vocab, max, scale, weights.data());
  if (min_p > 0) {
    total = 0;
    for (float& w : weights) total += w = w >= min_p ? w : 0;  // the likeliest token has weight 1
  }
  double left = u * total;
  int32_t last = 0;
  for (int32_t id = 0; id < vocab; id++) {
    const float w = weights[static_cast<size_t>(id)];
    if (w == 0) continue;
    last = id;
    left -= w;
    if (left < 0) break;
  }
  return last;
}

void report(const Bodies& bodies, const float* logits, int32_t vocab, double log_sum, int32_t top, Choice& choice,
            SampleScratch& scratch) {
  if (!choice.top_ids && !choice.top_logprobs) return;
  if (top > 0) largest(bodies, logits, vocab, std::min(top, vocab), scratch.candidates);
  for (int32_t i = 0; i < SL_MAX_TOP; i++) {
    const bool used = i < std::min(top, vocab);
    if (choice.top_ids) choice.top_ids[i] = used ? scratch.candidates[static_cast<size_t>(i)].id : SL_NONE;
    if (choice.top_logprobs)
      choice.top_logprobs[i] =
          used ? static_cast<float>(scratch.candidates[static_cast<size_t>(i)].logit - log_sum) : -INFINITY;
  }
}

void in_range(const char* where, const char* name, float value, float least, float most) {
  if (!(value >= least && value <= most))  // false for NaN
    refuse(std::string(where) + name + " is " + std::to_string(value) + ", expected " + std::to_string(least) + " to " +
           std::to_string(most));
}

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; round++) {
    const uint64_t x = uint64_t{0xD2511F53} * c[0], y = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(y >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(y),
         static_cast<uint32_t>(x >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(x)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return c;
}

void check_sampling(const sl_sampling& s, int32_t vocab, const char* where) {
  const std::string at = where;
  in_range(where, "temperature", s.temperature, 0, FLT_MAX);
  in_range(where, "top_p", s.top_p, 0, 1);
  in_range(where, "min_p", s.min_p, 0, 1);
  in_range(where, "typical_p", s.typical_p, 0, 1);
  in_range(where, "repeat_penalty", s.repeat_penalty, FLT_MIN, FLT_MAX);
  in_range(where, "presence_penalty", s.presence_penalty, -FLT_MAX, FLT_MAX);
  in_range(where, "frequency_penalty", s.frequency_penalty, -FLT_MAX, FLT_MAX);
  in_range(where, "top_logprobs", static_cast<float>(s.top_logprobs), 0, SL_MAX_TOP);
  in_range(where, "n_history", static_cast<float>(s.n_history), 0, 1 << 24);
  in_range(where, "n_bias", static_cast<float>(s.n_bias), 0, static_cast<float>(vocab));
  if ((s.n_history > 0 && !s.history) || (s.n_bias > 0 && (!s.bias_ids || !s.bias_values)))
    refuse(at + "history, bias_ids and bias_values must not be null when their count is above 0");
  if (s.mask && !allows_any(s.mask, vocab)) refuse(at + "the mask allows no token");
  for (int32_t i = 0; i < s.n_history; i++)
    if (s.history[i] < 0 || s.history[i] >= vocab)
      refuse(at + "history holds token " + std::to_string(s.history[i]) + ", the vocabulary has " +
          std::to_string(vocab));
  for (int32_t i = 0; i < s.n_bias; i++) {
    if (s.bias_ids[i] < 0 || s.bias_ids[i] >= vocab)
      refuse(at + "bias for token " + std::to_string(s.bias_ids[i]) + ", the vocabulary has " + std::to_string(vocab));
    in_range(where, "bias value", s.bias_values[i], -1e9f, 1e9f);
  }
}

void sample(const Bodies& bodies, float* logits, int32_t vocab, const sl_sampling& s, int32_t position, Choice& choice,
            SampleScratch& scratch) {
  if (!bodies.all_finite(logits, vocab)) {
    choice.token = SL_NONE;
    choice.logprob = NAN;
    report(bodies, logits, vocab, 0, 0, choice, scratch);
    return;
  }
  const float raw_max = bodies.max_of(logits, vocab);
  const double log_sum = raw_max + std::log(bodies.exp_sum(logits, vocab, raw_max, 1, nullptr));
  report(bodies, logits, vocab, log_sum, s.top_logprobs, choice, scratch);

  const auto choose = [&] {
    const float max = bodies.max_of(logits, vocab);
    if (s.temperature < kGreedyBelow || s.top_k == 1)
      return static_cast<int32_t>(std::find(logits, logits + vocab, max) - logits);
    const float scale = 1 / s.temperature;
    const double u = uniform(s.seed, position);
    if ((s.top_k <= 0 || s.top_k >= vocab) && s.top_p >= 1 && s.typical_p >= 1)
      return choose_wide(bodies, logits, vocab, max, scale, s.min_p, u, scratch);
    return Narrow(bodies, logits, vocab, max, scale, scratch).choose(s, u);
  };
  const bool penalties = s.repeat_penalty != 1 || s.presence_penalty != 0 || s.frequency_penalty != 0;
  if (s.n_bias == 0 && !penalties) {
    if (s.mask) forbid(logits, vocab, s.mask);  // what may be chosen keeps its logit
    choice.token = choose();
    choice.logprob = static_cast<float>(logits[choice.token] - log_sum);
    return;
  }
  std::vector<float>& raw = scratch.raw;
  raw.assign(logits, logits + vocab);
  change_logits(logits, vocab, s, scratch);
  choice.token = choose();
  choice.logprob = static_cast<float>(raw[static_cast<size_t>(choice.token)] - log_sum);
}

}  // namespace sealift
