#define SEALIFT_SET portable
#include "bodies.inc"
