// Choosing a token from logits: the order of sl_sampling's comment, drawn with Philox4x32-10.
// Refuses options out of range, NaN among them. Logits that are not finite choose no token (SL_NONE, NaN).
#pragma once
#include <sealift.h>

#include <array>
#include <cstdint>
#include <vector>

#include "bodies.h"

namespace sealift {

struct Candidate {
  float logit;
  int32_t id;
};

// Reused between draws of one thread.
struct SampleScratch {
  std::vector<Candidate> candidates;
  std::vector<float> logits, weights, raw;
  std::vector<int32_t> history;
};

struct Choice {
  int32_t token;        // SL_NONE if the logits are not finite
  float logprob;        // log softmax of the raw logits
  int32_t* top_ids;     // [SL_MAX_TOP] or null; unused entries SL_NONE and -infinity
  float* top_logprobs;  // [SL_MAX_TOP] or null
};

// `where` begins the error text.
void check_sampling(const sl_sampling& sampling, int32_t vocab, const char* where);

// logits [vocab] are changed. `position` is that of the token being chosen.
void sample(const Bodies& bodies, float* logits, int32_t vocab, const sl_sampling& sampling, int32_t position,
            Choice& choice, SampleScratch& scratch);

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace sealift
