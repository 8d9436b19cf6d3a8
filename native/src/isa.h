// isa.h: which instruction sets this build and this CPU can run.
#pragma once

namespace sealift {

int best_isa();                 // the fastest sl_isa this machine runs; never SL_ISA_BEST
bool isa_supported(int isa);    // SL_ISA_BEST counts as supported; unknown numbers do not
bool cpu_has_sha256();          // the SHA extensions, and what the body needs beside them
const char* isa_name(int isa);  // "unknown" for unknown numbers

}  // namespace sealift
