// From the scores of one query to the codes of its probabilities. Rows of scores, popcounts and
// bits are worked on by eights: those that hold a query's keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "head.h"
#include "math.h"

namespace bipft {
namespace {

// exp(score) by popcount, and by distance where a bias is added: the two are multiplied.
struct ScoreTable {
  static constexpr std::uint16_t kForbidden = 255;  // is no popcount: the weight of padding is 0
  static constexpr double kSpan = 600;              // of scores: double precision holds e^+-600
  double weight[256] = {};
  std::vector<double> by_distance;  // (2 length - 1), or none

  // One bit, and nothing is added to the product but a bias by distance.
  static bool serves(const Head& h) {
    double span = 2.0 * std::fabs(h.score_scale) * static_cast<double>(h.head_dim);
    if (h.bias)
      for (std::int64_t d = 1 - h.length; d < h.length; ++d)
        span = std::max(span, kSpan / 2 + 2.0 * std::fabs(h.bias[d]));
    const bool plain = h.score_rank == 0 && !h.position_keys && !h.position_queries;
    return !h.boolean && h.bits == 1 && h.key_value_bits == 1 && plain &&
           h.head_dim < kForbidden && span < kSpan;
  }
  explicit ScoreTable(const Head& h) {
    const double scale = h.score_scale, step = std::exp(-2 * scale);
    weight[0] = std::exp(scale * static_cast<double>(h.head_dim));
    for (std::int64_t c = 1; c <= h.head_dim; ++c) weight[c] = weight[c - 1] * step;
    if (!h.bias) return;
    by_distance.resize(2 * h.length - 1);
    for (std::int64_t d = 1 - h.length; d < h.length; ++d)
      by_distance[d + h.length - 1] = std::exp(static_cast<double>(h.bias[d]));
  }
};

// The eights around a query's keys.
inline Keys eights(const Keys& keys) { return {keys.first / 8 * 8, round_up(keys.end, 8)}; }

// Entries of those eights that are no keys of the query.
template <class T>
inline void fill_margins(const Keys& keys, T* row, T value) {
  const Keys all = eights(keys);
  std::fill(row + all.first, row + keys.first, value);
  std::fill(row + keys.end, row + all.end, value);
}

// Softmax and threshold as one interval of popcounts.
template <class Isa>
inline void threshold(const Head& h, const ScoreTable& table, const Keys& keys,
                      std::uint16_t* counts, std::uint8_t* bits) {
  for (std::int64_t k = keys.first; k < keys.end; ++k) counts[k] |= h.forbidden[k];
  fill_margins(keys, counts, ScoreTable::kForbidden);
  const Keys all = eights(keys);
  const double* weight = table.weight;
  double sums[4] = {};
  for (std::int64_t k = all.first; k < all.end; k += 4)
    for (int l = 0; l < 4; ++l) sums[l] += weight[counts[k + l]];
  const double least = (h.probability_shift + 0.5 * h.probability_step) *
                       ((sums[0] + sums[1]) + (sums[2] + sums[3]));
  std::int64_t low = 0, high = h.head_dim;
  while (low <= high && weight[low] < least) ++low;
  while (low <= high && weight[high] < least) --high;
  if (low > high) return;
  for (std::int64_t k = all.first; k < all.end; k += 8)
    bits[k / 8] = Isa::inside(counts + k, static_cast<std::uint16_t>(low),
                              static_cast<std::uint16_t>(high - low));
}

// Softmax and threshold where a weight is that of the popcount times that of the distance to query
// `q`: every key is compared. `weights`: room for a row.
inline void threshold_by_distance(const Head& h, const ScoreTable& table, const Keys& keys,
                                  std::int64_t q, std::uint16_t* counts, double* weights,
                                  std::uint8_t* bits) {
  const double *weight = table.weight, *near = table.by_distance.data() + (h.length - 1 - q);
  double sums[4] = {};
  for (std::int64_t k = keys.first; k < keys.end; ++k) {
    counts[k] |= h.forbidden[k];
    weights[k] = weight[counts[k]] * near[k];
    sums[k % 4] += weights[k];
  }
  const double least = (h.probability_shift + 0.5 * h.probability_step) *
                       ((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (std::int64_t k = keys.first; k < keys.end; ++k) {
    // A threshold below 0 attends to everything but padding.
    const bool set = weights[k] >= least && counts[k] != ScoreTable::kForbidden;
    bits[k / 8] |= static_cast<std::uint8_t>(set) << (k % 8);
  }
}

// Bits of the entries that are at least one.
template <class Isa>
inline void at_least_one(const Keys& keys, const float* row, std::uint8_t* bits) {
  static constexpr float kOnes[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  const Keys all = eights(keys);
  for (std::int64_t k = all.first; k < all.end; k += 8) bits[k / 8] = Isa::at_least(row + k, kOnes);
}

// Bi-Attention: which scores are not negative.
inline void compare(const Head& h, const Keys& keys, float* scores) {
  for (std::int64_t k = keys.first; k < keys.end; ++k)
    scores[k] = scores[k] >= 0 && !h.forbidden[k] ? 1.0f : 0.0f;
  fill_margins(keys, scores, 0.0f);
}

// Softmax of the scores; the whole parts of what it leaves are codes.
inline void soften(const Head& h, const Keys& keys, float* scores) {
  float* s = scores + keys.first;
  const std::uint16_t* forbidden = h.forbidden + keys.first;
  const std::int64_t n = keys.count();
  const float most = largest(n, [=](std::int64_t k) { return forbidden[k] ? -INFINITY : s[k]; });
  for (std::int64_t k = 0; k < n; ++k) {
    const float weight = exponential(s[k] - most);
    s[k] = forbidden[k] ? 0.0f : weight;
  }
  const float total = sum(n, [=](std::int64_t k) { return s[k]; });
  fill_margins(keys, scores, 0.0f);
  if (total == 0) return;  // all are forbidden, and 0 already
  const float per_step = 1.0f / (total * h.probability_step);
  const float shift = h.probability_shift / h.probability_step;
  const float top = static_cast<float>((1 << h.bits) - 1);
  for (std::int64_t k = 0; k < n; ++k) {
    // A threshold below 0 attends to everything but padding. The bounds come first: what is not a
    // number is then the least code.
    const float steps = std::min(top, std::max(0.0f, s[k] * per_step - shift));
    s[k] = forbidden[k] ? 0.0f : steps + 0.5f;
  }
}

}  // namespace
}  // namespace bipft
