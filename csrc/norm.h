// The normalisations of a block.
#pragma once

#include <cmath>
#include <cstdint>

#include "math.h"
#include "program.h"

namespace bipft {
namespace {

// y = norm(x), one row; y may be x.
inline void normalise(const Program& p, const NormPart& norm, const float* x, float* y) {
  const std::int64_t n = norm.width;
  const float* weight = p.at<float>(norm.weight);
  const float* bias = norm.bias.count ? p.at<float>(norm.bias) : nullptr;
  float mean = 0, scale = 1;
  if (norm.kind != NormKind::kAffine) {
    const auto width = static_cast<float>(n);
    if (norm.kind == NormKind::kLayer)
      mean = sum(n, [=](std::int64_t i) { return x[i]; }) / width;
    const float square =
        sum(n, [=](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / width;
    scale = 1.0f / std::sqrt(square + static_cast<float>(norm.eps));
  }
  if (bias)
    for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
  else
    for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * scale * weight[i];
}

inline void normalise(const Program& p, const NormPart& norm, const float* x, std::int64_t count,
                      float* y) {
  for (std::int64_t t = 0; t < count; ++t)
    normalise(p, norm, x + t * norm.width, y + t * norm.width);
}

// Whether a norm stands before the input of its half of the block, or after the residual sum.
inline bool stands_before(const NormPart& norm) {
  return norm.kind != NormKind::kNone && norm.first;
}
inline bool stands_after(const NormPart& norm) {
  return norm.kind != NormKind::kNone && !norm.first;
}

// y += residual, then the norm where it stands here; `count` rows of `width`.
inline void add_residual(const Program& p, const NormPart& norm, const float* residual,
                         std::int64_t count, std::int64_t width, float* y) {
  for (std::int64_t t = 0; t < count; ++t) {
    float* row = y + t * width;
    for (std::int64_t i = 0; i < width; ++i) row[i] += residual[t * width + i];
    if (stands_after(norm)) normalise(p, norm, row, row);
  }
}

}  // namespace
}  // namespace bipft
