// linear_avx512_amx.cpp: Intel Sapphire Rapids and later servers (2023-). As avx512-vnni, but for tiles of 16 tokens and more
// of integer formats, which go through AMX with the bits of the lower ones, BF16, which goes through AMX alone, and 4-bit codes,
// which never meet x in pairs and so have all of its 127 steps (linear.h says whose bits are whose).
// Compile with the flags of linear_avx512_vnni.cpp, -mamx-tile -mamx-int8 -mamx-bf16.
#include "linear_body.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__AVX512VNNI__) && defined(__F16C__) && (defined(__AMX_INT8__) || defined(__AMXINT8__))  // clang 14 and before
#if !defined(__clang__)  // see linear_avx512_vnni.cpp
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "linear_layout.h"

namespace sealift {
namespace {

constexpr int TOKENS[] = {1, 2, 3, 4, 6, 8, 12, 16, 64};
#define SEALIFT_TALL
constexpr int TALL = 16;
// Two vpdpbusd a cycle: pairs lose a sixth (12 tokens of Q4_0, a Xeon with AMX).
constexpr int PAIRED = 0;
// One token reads 18 to 20 GB/s so, a tenth to a quarter more than without; 4 KiB ahead gains nothing (the same machine).
constexpr int ASK = 1;
constexpr int64_t AHEAD = 1024;

#include "linear_avx512.inc"
#include "linear_body.inc"

}  // namespace

const LinearBody* linear_body_avx512_amx() { return &BODY; }

}  // namespace sealift
#else
namespace sealift {
const LinearBody* linear_body_avx512_amx() { return nullptr; }
}  // namespace sealift
#endif
