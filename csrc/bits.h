// Words, popcounts and the layout of interleaved weights.
//
// The bit order is that of bipft_compress/storage/bits.py: bit i of byte j of a row is element
// 8 j + i, 1 stands for +1 and 0 for -1, and rows are padded with zero bits. Padding therefore
// never counts: 0 XOR 0 is 0.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace bipft {

// How a path interleaves weights: `rows` rows share a vector, `word` bytes of each.
struct Layout {
  int rows;
  int word;
};

// How a path multiplies codes of several bits as 8-bit integers.
struct Dot {
  Layout layout;    // of weights, a byte each
  int depth;        // numbers of a row that meet at once: rows of weights are padded to multiples
  int weight_bits;  // of a weight, at most; wider ones are multiplied as halves of four bits
  int offset;       // what is taken from the fields of activations (codes.h)
  int tokens;       // that share a pass over the weights
  int planes;       // pairs of planes from which this is faster than popcounts
};

// Internal linkage, here and in all headers of the kernels: each path is compiled for another
// processor, and the linker must not take one path's copy of a function for all of them.
namespace {

inline int popcount64(std::uint64_t x) {
#if defined(__GNUC__) || defined(__clang__)
  return __builtin_popcountll(x);
#else
  x -= (x >> 1) & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
  return static_cast<int>((((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u) >> 56);
#endif
}

inline std::uint64_t load64(const std::uint8_t* p) {
  std::uint64_t x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

inline std::int32_t load32(const std::uint8_t* p) {
  std::int32_t x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

inline void store64(std::uint8_t* p, std::uint64_t x) { std::memcpy(p, &x, sizeof x); }

// Hides a value from the compiler, in a register: what is computed from it can neither be merged
// with the same computation elsewhere, nor leave its loop, nor be left out. For measurements.
template <class T>
inline void hide(T& x) {
#if defined(__GNUC__) || defined(__clang__)
  if constexpr (std::is_integral_v<T>)
    asm volatile("" : "+r"(x));
  else if constexpr (std::is_class_v<T>)
    asm volatile("" : "+m"(x));
  else
#ifdef BIPFT_NEON
    asm volatile("" : "+w"(x));
#else
    asm volatile("" : "+v"(x));
#endif
#else
  static_cast<void>(x);
#endif
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// Bytes of a row of `bits` bits in working memory: whole 64-bit words, so that any path may read
// a row by words.
constexpr std::int64_t row_bytes(std::int64_t bits) { return ceil_div(bits, 64) * 8; }

// Up to 64 bits of `row` from bit `start` on; the rest of the word is zero. Reads only the bytes
// that hold them.
inline std::uint64_t extract_bits(const std::uint8_t* row, std::int64_t start, int count) {
  const std::uint8_t* p = row + start / 8;
  const int skip = static_cast<int>(start % 8);
  const int bytes = static_cast<int>(ceil_div(skip + count, 8));
  std::uint64_t word = 0;
  std::memcpy(&word, p, bytes < 8 ? bytes : 8);
  word >>= skip;
  if (bytes > 8) word |= static_cast<std::uint64_t>(p[8]) << (64 - skip);
  return count == 64 ? word : word & ((std::uint64_t{1} << count) - 1);
}

inline std::int64_t words_of(const Layout& l, std::int64_t in) {
  return ceil_div(ceil_div(in, 8), l.word);
}
inline std::int64_t blocks_of(const Layout& l, std::int64_t out) { return ceil_div(out, l.rows); }
inline std::int64_t interleaved_bytes(const Layout& l, std::int64_t in, std::int64_t out) {
  return blocks_of(l, out) * words_of(l, in) * l.rows * l.word;
}

// Words of a row of codes of a byte each, and bytes of `out` such rows.
inline std::int64_t dot_words(const Dot& d, std::int64_t in) {
  return words_of(d.layout, 8 * round_up(in, d.depth));
}
inline std::int64_t dot_bytes(const Dot& d, std::int64_t in, std::int64_t out) {
  return blocks_of(d.layout, out) * dot_words(d, in) * d.layout.rows * d.layout.word;
}

// Where the codes of `out` rows go: number k of row n.
inline std::int64_t dot_place(const Dot& d, std::int64_t in, std::int64_t n, std::int64_t k) {
  const std::int64_t rows = d.layout.rows, word = d.layout.word;
  return ((n / rows * dot_words(d, in) + k / word) * rows + n % rows) * word + k % word;
}

// Rows of one plane of weights where several follow each other: whole blocks, and whole bytes of
// the output's signs.
constexpr std::int64_t padded_rows(const Layout& l, std::int64_t out) {
  return round_up(round_up(out, l.rows), 8);
}

// From rows of `stride` bytes to blocks of `rows` rows, a word of each after the other.
inline void interleave(const Layout& l, const std::uint8_t* source, std::int64_t stride,
                       std::int64_t in, std::int64_t out, std::uint8_t* target) {
  const std::int64_t bytes = ceil_div(in, 8);
  std::fill_n(target, interleaved_bytes(l, in, out), std::uint8_t{0});
  for (std::int64_t n = 0; n < out; ++n) {
    std::uint8_t* row =
        target + (n / l.rows) * words_of(l, in) * l.rows * l.word + (n % l.rows) * l.word;
    for (std::int64_t j = 0; j < bytes; ++j) {
      std::uint8_t byte = source[n * stride + j];
      // Whatever lies beyond the last element of a row must not count.
      if (j == bytes - 1 && in % 8) byte &= static_cast<std::uint8_t>((1 << (in % 8)) - 1);
      row[(j / l.word) * l.rows * l.word + j % l.word] = byte;
    }
  }
}

// What a thread must hold while it runs dot_tile: nothing, on most paths.
struct NoSession {};

// Activations as a path's tile reads them, where that is as they are.
struct PlainRows {
  // Working memory that `prepare` needs for a row.
  static std::int64_t prepared_bytes(std::int64_t in) { return row_bytes(in); }
  static void prepare(const std::uint8_t* row, std::int64_t in, std::uint8_t* out) {
    std::memcpy(out, row, row_bytes(in));
  }
};

}  // namespace
}  // namespace bipft
