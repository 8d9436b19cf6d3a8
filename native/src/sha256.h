// sha256.h: SHA-256 (FIPS 180-4) of streams that get the same bytes, and of pieces, several side by side. Refuses nothing: abi.cpp does.
// There is one body, for processors with instructions for it; elsewhere callers use another library (sha256_supported).
#pragma once
#include <cstdint>

struct sl_sha256;

namespace sealift {

constexpr int kSha256Block = 64;    // bytes
constexpr int kSha256Together = 3;  // streams; cycles a byte of 1, 2, 3 on an Intel Golden Cove: 2.05, 3.03, 4.50

// Takes `blocks` blocks from data[i] on into states[i], each of 8 words, for i < n; n is 1 to kSha256Together.
using Sha256Blocks = void (*)(int n, uint32_t* const* states, const uint8_t* const* data, int64_t blocks);
extern const Sha256Blocks kSha256Ni;  // nullptr: not in this build

bool sha256_supported();
void sha256_begin(sl_sha256& stream);
void sha256_update(sl_sha256* const* streams, int n, const uint8_t* data, int64_t size);  // all different
void sha256_digest(const sl_sha256& stream, uint8_t* digest);                             // [32]
void sha256_pieces(const uint8_t* data, int64_t size, int64_t piece, uint8_t* digests);   // [pieces, 32]

}  // namespace sealift
