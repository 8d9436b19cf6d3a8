#include "bodies.h"

#include <sealift.h>

namespace sealift {

const Bodies& bodies(int32_t isa) {
#if defined(__x86_64__)
  if (isa == SL_ISA_AVX512_VNNI || isa == SL_ISA_AVX512_AMX) return avx512::kBodies;  // Intel Ice Lake (2019-), AMD Zen 4 (2022-)
  if (isa == SL_ISA_AVX2) return avx2::kBodies;           // Intel Haswell (2013-), AMD Zen (2017-): AVX2, FMA, F16C
#endif
  (void)isa;
  return portable::kBodies;
}

}  // namespace sealift
