// The activation functions of feed-forward networks.
#pragma once

#include <cstdint>

#include "math.h"
#include "program.h"

namespace bipft {
namespace {

inline float gelu(float x) { return 0.5f * x * (1.0f + error_function(x * 0.70710678f)); }

inline float gelu_tanh(float x) {
  const float u = 0.79788456f * (x + 0.044715f * x * x * x);
  return x * (1.0f - 1.0f / (exponential(2.0f * u) + 1.0f));
}

inline float quick_gelu(float x) { return x / (1.0f + exponential(-1.702f * x)); }

inline float silu(float x) { return x / (1.0f + exponential(-x)); }

inline void activate(Activation activation, float* x, std::int64_t n) {
  const auto each = [=](auto f) {
    for (std::int64_t i = 0; i < n; ++i) x[i] = f(x[i]);
  };
  switch (activation) {
    case Activation::kGelu: return each([](float v) { return gelu(v); });
    case Activation::kGeluTanh: return each([](float v) { return gelu_tanh(v); });
    case Activation::kQuickGelu: return each([](float v) { return quick_gelu(v); });
    case Activation::kRelu: return each([](float v) { return v > 0 ? v : 0.0f; });
    case Activation::kSilu: return each([](float v) { return silu(v); });
    case Activation::kOnlyFolded: return;
  }
}

}  // namespace
}  // namespace bipft
