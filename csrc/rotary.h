// Rotary positions: the numbers of a head turn by their position's angles.
#pragma once

#include <cstdint>

#include "program.h"

namespace bipft {
namespace {

// One head's numbers of one token, in place; cos and sin are the token's, both of a pair alike.
inline void rotate(Pairs pairs, const float* cos, const float* sin, std::int64_t head_dim,
                   float* x) {
  const std::int64_t half = head_dim / 2;
  const auto turn = [=](std::int64_t i, std::int64_t j) {
    const float first = x[i], second = x[j];
    x[i] = first * cos[i] - second * sin[i];
    x[j] = second * cos[j] + first * sin[j];
  };
  if (pairs == Pairs::kHalves)
    for (std::int64_t i = 0; i < half; ++i) turn(i, i + half);
  if (pairs == Pairs::kNeighbours)
    for (std::int64_t i = 0; i < half; ++i) turn(2 * i, 2 * i + 1);
}

}  // namespace
}  // namespace bipft
