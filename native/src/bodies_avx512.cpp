#define SEALIFT_SET avx512
#include "bodies.inc"
