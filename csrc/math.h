// Floating-point loops that compilers turn into vectors without being allowed to reorder sums.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace bipft {
namespace {

// Sums in 16 lanes, then the lanes. Zeros at the end change nothing, as padding must.
template <class F>
inline float sum(std::int64_t n, F term) {
  float lanes[16] = {};
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int l = 0; l < 16; ++l) lanes[l] += term(i + l);
  for (; i < n; ++i) lanes[i % 16] += term(i);
  for (int width = 8; width; width /= 2)
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  return lanes[0];
}

// The largest of n terms, -infinity of none.
template <class F>
inline float largest(std::int64_t n, F term) {
  float lanes[16];
  for (float& lane : lanes) lane = -INFINITY;
  const auto more = [](float a, float b) { return a < b ? b : a; };
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int l = 0; l < 16; ++l) lanes[l] = more(lanes[l], term(i + l));
  for (; i < n; ++i) lanes[0] = more(lanes[0], term(i));
  for (int l = 1; l < 16; ++l) lanes[0] = more(lanes[0], lanes[l]);
  return lanes[0];
}

inline float dot(const float* a, const float* b, std::int64_t n) {
  return sum(n, [=](std::int64_t i) { return a[i] * b[i]; });
}

// e^x to 2 units in the last place, 0 below -87. What is not a number counts as -87: its power of
// two must be one.
inline float exponential(float x) {
  const float clamped = x > -87.0f ? (x < 88.0f ? x : 88.0f) : -87.0f;
  const float n = std::floor(clamped * 1.44269504f + 0.5f);
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const std::int32_t exponent = (static_cast<std::int32_t>(n) + 127) * (1 << 23);
  float power;
  std::memcpy(&power, &exponent, sizeof power);
  return x < -87.0f ? 0.0f : p * power;
}

// The error function, absolute error below 2e-7 (Abramowitz and Stegun, 7.1.26).
inline float error_function(float x) {
  const float a = std::fabs(x);
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  const float p =
      ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t +
       0.254829592f) * t;
  return std::copysign(1.0f - p * exponential(-a * a), x);
}

}  // namespace
}  // namespace bipft
