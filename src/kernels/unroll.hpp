#pragma once

// Before a loop over registers. Under a sanitizer such loops stay loops, so that every index is checked.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DALSEGNO_UNROLL
#else
#define DALSEGNO_UNROLL _Pragma("GCC unroll 16")
#endif
