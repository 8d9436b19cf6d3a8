#define SEALIFT_SET avx2
#include "bodies.inc"
