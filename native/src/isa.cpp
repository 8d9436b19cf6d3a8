// isa.cpp: asks the CPU (and the operating system, for wide registers) what it can run.
#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
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

// AMX: the CPU has tiles of bfloat16 and int8 (CPUID leaf 7, EDX bits 22, 24, 25), the system keeps tile registers (XCR0 bits 17 and 18), and
// gives this process leave to use them, for all its threads and for good (Linux, Documentation/arch/x86/xstate.rst).
bool may_use_amx() {
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d >> 22 & 13) != 13) return false;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low >> 17 & 3) != 3) return false;
#if defined(__linux__)
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}

// Needed by each body; the compile flags of its file are the same list (native/CMakeLists.txt). Asked once: in a virtual
// machine each CPUID is a trap, some 25 us.
bool cpu_has(int isa) {
#if defined(__x86_64__)
  static const bool avx2 = (__builtin_cpu_init(), __builtin_cpu_supports("avx2")) && __builtin_cpu_supports("fma") && cpu_has_f16c();
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  static const bool amx = avx512 && may_use_amx();
  switch (isa) {
    case SL_ISA_PORTABLE: return true;
    case SL_ISA_AVX2: return avx2;
    case SL_ISA_AVX512_VNNI: return avx512;
    case SL_ISA_AVX512_AMX: return amx;
    default: return false;
  }
#else
  return isa == SL_ISA_PORTABLE;
#endif
}

}  // namespace

int best_isa() {
  if (isa_supported(SL_ISA_AVX512_AMX)) return SL_ISA_AVX512_AMX;
  if (isa_supported(SL_ISA_AVX512_VNNI)) return SL_ISA_AVX512_VNNI;
  return isa_supported(SL_ISA_AVX2) ? SL_ISA_AVX2 : SL_ISA_PORTABLE;
}

bool cpu_has_sha256() {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_SSSE3) == 0 || (c & bit_SSE4_1) == 0) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_SHA) != 0;
#else
  return false;
#endif
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
    case SL_ISA_AVX512_AMX: return "avx512-amx";
    default: return "unknown";
  }
}

}  // namespace sealift
