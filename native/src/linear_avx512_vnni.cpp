// linear_avx512_vnni.cpp: AMD Zen 4 and later (2022-), Intel Ice Lake, Sapphire Rapids and later servers (2019-).
// Compile with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c.
#include "linear_body.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__AVX512VNNI__) && defined(__F16C__)
// gcc 12 warns about its own intrinsics (bug 105593: _mm512_undefined_* reads itself).
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "linear_layout.h"

namespace sealift {
namespace {

// 12: eight code vectors, twelve accumulators and three scale vectors leave nine of 32 registers for sums in flight.
constexpr int TOKENS[] = {1, 2, 3, 4, 6, 8, 12};
// Zen 4 does one 512-bit vpdpbusd or one float multiply a cycle, so a kernel with 8 of them in 10 (with minima 11) reaches
// 80 % (73 %) of the limit at most. Bytes are added in other units too: in pairs a kernel needs 6 in 8 (9).
constexpr int PAIRED = 6;
// Measured on Zen 4: 8 tokens gain a fifth to two fifths, 4 tokens gain or lose as the format goes, fewer lose up to 40 %;
// between 2 and 6 KiB it makes no difference.
constexpr int ASK = 4;
constexpr int64_t AHEAD = 4096;

#include "linear_avx512.inc"
#include "linear_body.inc"

}  // namespace

const LinearBody* linear_body_avx512_vnni() { return &BODY; }

}  // namespace sealift
#else
namespace sealift {
const LinearBody* linear_body_avx512_vnni() { return nullptr; }
}  // namespace sealift
#endif
