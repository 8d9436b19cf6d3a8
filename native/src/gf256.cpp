// The portable body, and the way through the slices. No tables: a product by a constant is a sum of products by powers
// of x, so inputs are added up by bit of their factor first, and Horner's rule joins the eight sums. Compilers make both
// loops as wide as the machine's registers.
#include "gf256.h"

#include <sealift.h>

#include <algorithm>
#include <cstring>

namespace sealift {
namespace {

void add(uint8_t* __restrict sum, const uint8_t* __restrict more, int64_t size) {
  for (int64_t i = 0; i < size; i++) sum[i] ^= more[i];
}

// sum = sum * x + more
void horner(uint8_t* __restrict sum, const uint8_t* __restrict more, int64_t size) {
  for (int64_t i = 0; i < size; i++) {
    const auto carry = static_cast<uint8_t>(0 - (sum[i] >> 7));
    sum[i] = static_cast<uint8_t>((sum[i] + sum[i]) ^ (carry & 0x1d) ^ more[i]);
  }
}

void portable(const Gf256& sums, int64_t begin, int64_t size) {
  uint8_t bits[8][kGf256Slice];
  for (int r = 0; r < sums.n_out; r++) {
    for (auto& bit : bits) std::memset(bit, 0, static_cast<size_t>(size));
    for (int k = 0; k < sums.n_in; k++) {
      const int factor = sums.factors[r * sums.n_in + k];
      for (int bit = 0; bit < 8; bit++)
        if (factor >> bit & 1) add(bits[bit], sums.in[k] + begin, size);
    }
    for (int bit = 6; bit >= 0; bit--) horner(bits[7], bits[bit], size);
    std::memcpy(sums.out[r] + begin, bits[7], static_cast<size_t>(size));
  }
}

}  // namespace

const Gf256Slice kGf256Portable = portable;

void gf256_combine(const Gf256& sums, int64_t size, int isa) {
  const Gf256Slice slice = isa == SL_ISA_PORTABLE ? kGf256Portable : kGf256Avx2;
  for (int64_t begin = 0; begin < size; begin += kGf256Slice) slice(sums, begin, std::min(kGf256Slice, size - begin));
}

}  // namespace sealift
