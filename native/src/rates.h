// rates.h: what this machine can do at most, measured; a kernel's speed means something only beside it.
#pragma once
#include <sealift.h>

#include <cstdint>

namespace sealift {

// bytes: read in one pass, by all threads together; far more than the caches hold. Throws Error and std::bad_alloc.
sl_rates measure_limits(int32_t threads, int64_t bytes);

}  // namespace sealift
