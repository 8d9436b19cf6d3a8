// Streams: what comes before and after whole blocks. Streams may stand at different places of their blocks.
#include "sha256.h"

#include <sealift.h>

#include <algorithm>
#include <cstring>

#include "isa.h"

namespace sealift {
namespace {

// FIPS 180-4, 5.3.3
constexpr uint32_t kFirst[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

// Ends the block that a stream has begun, if there are bytes enough. Returns how many were taken.
int64_t end_block(sl_sha256& stream, const uint8_t* data, int64_t size) {
  const auto begun = static_cast<int64_t>(stream.length % kSha256Block);
  if (begun == 0) return 0;
  const int64_t taken = std::min(kSha256Block - begun, size);
  std::memcpy(stream.rest + begun, data, static_cast<size_t>(taken));
  if (begun + taken == kSha256Block) {
    uint32_t* state = stream.state;
    const uint8_t* block = stream.rest;
    kSha256Ni(1, &state, &block, 1);
  }
  return taken;
}

void update_together(sl_sha256* const* streams, int n, const uint8_t* data, int64_t size) {
  uint32_t* states[kSha256Together] = {};
  const uint8_t* at[kSha256Together] = {};
  const uint8_t* const end = data + size;
  int64_t blocks = size / kSha256Block;  // that all have
  for (int i = 0; i < n; i++) {
    states[i] = streams[i]->state;
    at[i] = data + end_block(*streams[i], data, size);
    blocks = std::min(blocks, (end - at[i]) / kSha256Block);
  }
  kSha256Ni(n, states, at, blocks);
  for (int i = 0; i < n; i++) {
    at[i] += blocks * kSha256Block;
    if (end - at[i] >= kSha256Block) {  // one more: its first block was whole
      kSha256Ni(1, &states[i], &at[i], 1);
      at[i] += kSha256Block;
    }
    std::memcpy(streams[i]->rest, at[i], static_cast<size_t>(end - at[i]));
    streams[i]->length += static_cast<uint64_t>(size);
  }
}

// The whole blocks of n pieces, each from its place on: as many at once as have some left.
void whole_blocks(sl_sha256* streams, int n, const uint8_t* const* begin, const uint8_t* const* end) {
  const uint8_t* place[kSha256Together] = {};
  std::copy_n(begin, n, place);
  for (;;) {
    uint32_t* states[kSha256Together] = {};
    const uint8_t* at[kSha256Together] = {};
    const uint8_t** owner[kSha256Together] = {};
    int left = 0;
    int64_t blocks = INT64_MAX;
    for (int i = 0; i < n; i++) {
      const int64_t rest = (end[i] - place[i]) / kSha256Block;
      if (rest == 0) continue;
      states[left] = streams[i].state;
      at[left] = place[i];
      owner[left++] = &place[i];
      blocks = std::min(blocks, rest);
    }
    if (left == 0) return;
    kSha256Ni(left, states, at, blocks);
    for (int i = 0; i < left; i++) *owner[i] += blocks * kSha256Block;
  }
}

}  // namespace

bool sha256_supported() {
  static const bool supported = kSha256Ni != nullptr && cpu_has_sha256();
  return supported;
}

void sha256_begin(sl_sha256& stream) {
  stream = {};
  std::copy_n(kFirst, 8, stream.state);
}

void sha256_update(sl_sha256* const* streams, int n, const uint8_t* data, int64_t size) {
  for (int first = 0; first < n; first += kSha256Together)
    update_together(streams + first, std::min(kSha256Together, n - first), data, size);
}

// Padding: 5.1.1. The length is in bits, modulo 2^64.
void sha256_digest(const sl_sha256& stream, uint8_t* digest) {
  sl_sha256 last = stream;
  const auto begun = static_cast<int64_t>(stream.length % kSha256Block);
  uint8_t padding[kSha256Block + 8] = {0x80};
  const int64_t zeros = (kSha256Block + kSha256Block - 9 - begun) % kSha256Block;  // behind 0x80
  for (int i = 0; i < 8; i++) padding[1 + zeros + i] = static_cast<uint8_t>(stream.length << 3 >> (56 - 8 * i));
  sl_sha256* one = &last;
  update_together(&one, 1, padding, 1 + zeros + 8);
  for (int i = 0; i < 32; i++) digest[i] = static_cast<uint8_t>(last.state[i / 4] >> (24 - 8 * (i % 4)));
}

void sha256_pieces(const uint8_t* data, int64_t size, int64_t piece, uint8_t* digests) {
  const uint8_t* const all = data + size;
  while (data < all) {
    sl_sha256 streams[kSha256Together];
    const uint8_t *begin[kSha256Together], *end[kSha256Together];
    int n = 0;
    for (; n < kSha256Together && data < all; n++) {
      sha256_begin(streams[n]);
      begin[n] = data;
      data += std::min<int64_t>(piece, all - data);
      end[n] = data;
    }
    whole_blocks(streams, n, begin, end);
    for (int i = 0; i < n; i++, digests += 32) {
      const int64_t rest = (end[i] - begin[i]) % kSha256Block;
      streams[i].length = static_cast<uint64_t>(end[i] - begin[i]);
      std::memcpy(streams[i].rest, end[i] - rest, static_cast<size_t>(rest));
      sha256_digest(streams[i], digests);
    }
  }
}

}  // namespace sealift
