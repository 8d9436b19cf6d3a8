// gf256.h: sums of products in GF(2^8) of polynomial 0x11D, the Reed-Solomon code of docs/formats/parity.md, byte by
// byte over shards. Refuses nothing: abi.cpp does.
#pragma once
#include <cstdint>

namespace sealift {

// out[r] = sum over k of factors[r, k] x in[k]; r < n_out, k < n_in. in[k] may be null where column k is all zeros.
struct Gf256 {
  const uint8_t* factors;  // [n_out, n_in]
  int n_out, n_in;
  const uint8_t* const* in;
  uint8_t* const* out;     // apart from each other and from `in`
};

// Bytes [begin, begin + size) of all outputs; size is at most kGf256Slice.
using Gf256Slice = void (*)(const Gf256& sums, int64_t begin, int64_t size);
extern const Gf256Slice kGf256Portable;
extern const Gf256Slice kGf256Avx2;  // nullptr: not in this build

// Bytes of each shard at a time: those of 255 inputs stay in a core's second cache until all outputs are done, the
// eight sums of an output (portable) in its first.
constexpr int64_t kGf256Slice = 2048;

void gf256_combine(const Gf256& sums, int64_t size, int isa);  // isa: one that is supported, not SL_ISA_BEST

}  // namespace sealift
