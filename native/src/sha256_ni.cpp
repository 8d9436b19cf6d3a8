// sha256_ni.cpp: Intel Goldmont (2016-) and Ice Lake (2019-), AMD Zen (2017-): the SHA extensions.
// Compile with -msha -mssse3 -msse4.1. sha256rnds2 takes four cycles and can start every second one, so that a stream
// alone leaves half of them empty: streams run side by side, four rounds of each in turn.
#include "sha256.h"

#if defined(__SHA__) && defined(__SSSE3__) && defined(__SSE4_1__)
#include <immintrin.h>

#define UNROLL _Pragma("GCC unroll 16")

namespace sealift {
namespace {

// FIPS 180-4, 4.2.2
alignas(16) constexpr uint32_t kRounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

__m128i load(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
void store(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }

// The instructions want a state as the words f e b a and h g d c, lowest first, and a message's words in this machine's
// byte order.
template <int N>
void blocks_of(uint32_t* const* states, const uint8_t* const* data, int64_t blocks) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i feba[N], hgdc[N];
  for (int i = 0; i < N; i++) {
    const __m128i badc = _mm_shuffle_epi32(load(states[i]), 0xb1), hgfe = _mm_shuffle_epi32(load(states[i] + 4), 0x1b);
    feba[i] = _mm_alignr_epi8(badc, hgfe, 8);
    hgdc[i] = _mm_blend_epi16(hgfe, badc, 0xf0);
  }
  for (int64_t block = 0; block < blocks; block++) {
    __m128i words[N][4], feba_before[N], hgdc_before[N];
    for (int i = 0; i < N; i++) {
      feba_before[i] = feba[i];
      hgdc_before[i] = hgdc[i];
      for (int j = 0; j < 4; j++)
        words[i][j] = _mm_shuffle_epi8(load(data[i] + block * kSha256Block + 16 * j), big_endian);
    }
    UNROLL for (int four = 0; four < 16; four++) {
      UNROLL for (int i = 0; i < N; i++) {
        __m128i* w = words[i];
        const __m128i now = w[four % 4], sum = _mm_add_epi32(now, load(kRounds + 4 * four));
        if (four < 12) {  // the words of four rounds later take this one's place
          const __m128i last = w[(four + 3) % 4], middle = _mm_alignr_epi8(last, w[(four + 2) % 4], 4);
          const __m128i part = _mm_add_epi32(_mm_sha256msg1_epu32(now, w[(four + 1) % 4]), middle);
          w[four % 4] = _mm_sha256msg2_epu32(part, last);
        }
        hgdc[i] = _mm_sha256rnds2_epu32(hgdc[i], feba[i], sum);
        feba[i] = _mm_sha256rnds2_epu32(feba[i], hgdc[i], _mm_shuffle_epi32(sum, 0x0e));
      }
    }
    for (int i = 0; i < N; i++) {
      feba[i] = _mm_add_epi32(feba[i], feba_before[i]);
      hgdc[i] = _mm_add_epi32(hgdc[i], hgdc_before[i]);
    }
  }
  for (int i = 0; i < N; i++) {
    const __m128i abef = _mm_shuffle_epi32(feba[i], 0x1b), ghcd = _mm_shuffle_epi32(hgdc[i], 0xb1);
    store(states[i], _mm_blend_epi16(abef, ghcd, 0xf0));
    store(states[i] + 4, _mm_alignr_epi8(ghcd, abef, 8));
  }
}

void blocks_of_each(int n, uint32_t* const* states, const uint8_t* const* data, int64_t blocks) {
  switch (n) {
    case 1: return blocks_of<1>(states, data, blocks);
    case 2: return blocks_of<2>(states, data, blocks);
    case 3: return blocks_of<3>(states, data, blocks);
  }
}

}  // namespace

const Sha256Blocks kSha256Ni = blocks_of_each;

}  // namespace sealift

#else
namespace sealift {

const Sha256Blocks kSha256Ni = nullptr;

}  // namespace sealift
#endif
