// Rows of tables: read by id, or multiplied with as they are decoded.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "bits.h"
#include "math.h"
#include "table.h"
#include "threads.h"

namespace bipft {
namespace {

// Of an fp16 number that is finite.
inline float from_half(std::uint16_t half) {
  const std::uint32_t shifted = static_cast<std::uint32_t>(half & 0x7fff) << 13;
  float magnitude;
  std::memcpy(&magnitude, &shifted, sizeof magnitude);
  magnitude *= 5.192296858534828e33f;  // 2^112: from the bias of one exponent to the other's
  return half & 0x8000 ? -magnitude : magnitude;
}

template <int Bits>
inline void decode(const std::uint8_t* row, float step, std::int64_t count, float* out) {
  constexpr int kFields = 8 / Bits, kMask = (1 << Bits) - 1;
  const auto number = [=](std::uint8_t byte, int place) {
    const int field = (byte >> (Bits * place)) & kMask;
    return static_cast<float>(Bits == 1 ? 2 * field - 1 : field - kMask / 2) * step;
  };
  const std::int64_t whole = count / kFields;
  for (std::int64_t j = 0; j < whole; ++j)
    for (int place = 0; place < kFields; ++place) out[j * kFields + place] = number(row[j], place);
  for (std::int64_t k = whole * kFields; k < count; ++k)
    out[k] = number(row[whole], static_cast<int>(k % kFields));
}

// The first `count` numbers of a row.
inline void read(const Table& t, std::int64_t row, std::int64_t count, float* out) {
  const std::uint8_t* packed = t.packed + row * ceil_div(t.columns * t.bits, 8);
  const float step = from_half(t.steps[row]);
  if (t.bits == 8) return decode<8>(packed, step, count, out);
  if (t.bits == 4) return decode<4>(packed, step, count, out);
  decode<1>(packed, step, count, out);
}

inline void read_word(const Words& w, std::int64_t id, float* out) {
  const int flags = w.is_frequent[id / 8], place = static_cast<int>(id % 8);
  const std::int64_t columns = w.frequent.columns, size = w.books.columns;
  const std::int64_t rank =
      w.before[id / 8] + popcount64(static_cast<std::uint64_t>(flags & ((1 << place) - 1)));
  const bool frequent = flags >> place & 1;
  if (rank < 0 || (frequent ? rank >= w.frequent.rows : id < rank || id - rank >= w.rare))
    throw std::out_of_range("the flags of frequent words mark others than there are");
  if (frequent) return read(w.frequent, rank, columns, out);
  const std::uint8_t* codes = w.codes + (id - rank) * w.parts;
  for (std::int64_t part = 0; part < w.parts; ++part)
    read(w.books, part * Words::kCentroids + codes[part],
         std::min(size, columns - part * size), out + part * size);
}

// read(id, out) for each of `count` ids, all below `rows`, to (count, columns).
template <class Read>
void each_id(const std::int64_t* ids, std::int64_t count, std::int64_t rows, std::int64_t columns,
             float* out, int threads, Read read) {
  constexpr std::int64_t kIds = 16;  // of an item
  parallel_for(ceil_div(count, kIds), threads, [&](std::int64_t item, int) {
    for (std::int64_t i = item * kIds; i < std::min(count, (item + 1) * kIds); ++i) {
      if (ids[i] < 0 || ids[i] >= rows)
        throw std::out_of_range("an id is beyond the rows of its table");
      read(ids[i], out + i * columns);
    }
  });
}

void rows(const Table& t, const std::int64_t* ids, std::int64_t count, float* out, int threads) {
  each_id(ids, count, t.rows, t.columns, out, threads,
          [&](std::int64_t id, float* row) { read(t, id, t.columns, row); });
}

void words(const Words& w, const std::int64_t* ids, std::int64_t count, float* out, int threads) {
  each_id(ids, count, w.frequent.rows + w.rare, w.frequent.columns, out, threads,
          [&](std::int64_t id, float* row) { read_word(w, id, row); });
}

// A row of weights is decoded into the first cache, and every row of x multiplied with it there.
void linear(const Table& t, const float* bias, const float* x, std::int64_t count, float* y,
            int threads) {
  constexpr std::int64_t kRows = 16;  // of an item
  parallel_for(ceil_div(t.rows, kRows), threads, [&](std::int64_t item, int) {
    std::vector<float> weights(t.columns);
    for (std::int64_t n = item * kRows; n < std::min(t.rows, (item + 1) * kRows); ++n) {
      read(t, n, t.columns, weights.data());
      for (std::int64_t i = 0; i < count; ++i)
        y[i * t.rows + n] =
            dot(weights.data(), x + i * t.columns, t.columns) + (bias ? bias[n] : 0.0f);
    }
  });
}

}  // namespace
}  // namespace bipft
