// isa.cpp: asks the CPU (and the operating system, for wide registers) what it can run.
#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "linear_body.h"
#include "sealift.h"

namespace sealift {
namespace {

#if defined(__x86_64__)
// clang's __builtin_cpu_supports does not know it. Whether the system keeps its registers is asked with avx2.
bool cpu_has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

// Needed by each body; the compile flags of its file are the same list (native/CMakeLists.txt).
bool cpu_has(int isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c();
  switch (isa) {
    case SL_ISA_PORTABLE: return true;
    case SL_ISA_AVX2: return avx2;
    case SL_ISA_AVX512_VNNI:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vnni");
    default: return false;
  }
#else
  return isa == SL_ISA_PORTABLE;
#endif
}

}  // namespace

int best_isa() {
  if (isa_supported(SL_ISA_AVX512_VNNI)) return SL_ISA_AVX512_VNNI;
  return isa_supported(SL_ISA_AVX2) ? SL_ISA_AVX2 : SL_ISA_PORTABLE;
}

bool isa_supported(int isa) {
  if (isa == SL_ISA_BEST) return true;
  return linear_body(isa) != nullptr && cpu_has(isa);
}

const char* isa_name(int isa) {
  switch (isa) {
    case SL_ISA_BEST: return "best";
    case SL_ISA_PORTABLE: return "portable";
    case SL_ISA_AVX2: return "avx2";
    case SL_ISA_AVX512_VNNI: return "avx512-vnni";
    default: return "unknown";
  }
}

}  // namespace sealift
