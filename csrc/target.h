// The standard headers that kernels use, before any code is compiled for a newer processor: inline
// functions of the standard library are shared by the whole module and must run everywhere. For
// the same reason paths are chosen by pragma, not by a compiler flag for the whole file.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#ifdef BIPFT_X86
#include <immintrin.h>
#endif

#define BIPFT_TEXT(...) #__VA_ARGS__
#define BIPFT_PRAGMA(...) _Pragma(BIPFT_TEXT(__VA_ARGS__))

#if defined(__clang__)
#define BIPFT_TARGET_BEGIN(features) \
  BIPFT_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define BIPFT_TARGET_END BIPFT_PRAGMA(clang attribute pop)
#else
#define BIPFT_TARGET_BEGIN(features) \
  BIPFT_PRAGMA(GCC push_options)      \
  BIPFT_PRAGMA(GCC target(features))
#define BIPFT_TARGET_END BIPFT_PRAGMA(GCC pop_options)
#endif
