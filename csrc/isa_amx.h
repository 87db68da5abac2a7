// AVX-512 with AMX: a product of 16 tokens by 64 codes by 16 rows of weights is one instruction.
// One bit by one is counted as on AVX-512: bytes would take eight times the memory.
#pragma once

#include "isa_avx512.h"

namespace bipft {
namespace {

struct Amx : Avx512 {
  static constexpr const char* name = "amx";
  // Measured (benchmarks/binary_product.py --pairs): as long as 1.2 planes.
  static constexpr Dot dot{{16, 4}, 64, 8, 0, 32, 2};
  static constexpr int dot_rows = 32;
  static constexpr int dot_vectors = 2;

  // The shapes of the tile registers: all of 16 rows by 64 bytes.
  class DotSession {
   public:
    DotSession() {
      struct alignas(64) {
        std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
        std::uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
      } shapes;
      settle();
      _tile_loadconfig(&shapes);
    }
    ~DotSession() { _tile_release(); }
    DotSession(const DotSession&) = delete;
  };

  template <int T, int V>
  static void dot_tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* fields,
                       std::int64_t bytes, std::int32_t* out, std::int64_t stride) {
    if constexpr (T % 16 == 0)
      tiles<T / 16, V>(weights, words, fields, bytes, out, stride);
    else
      Avx512::dot_tile<T, V>(weights, words, fields, bytes, out, stride);
  }

 private:
  // Registers 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights.
  template <int T, int V>
  static void tiles(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* fields,
                    std::int64_t bytes, std::int32_t* out, std::int64_t stride) {
    settle();
    _tile_zero(0);
    if (V == 2) _tile_zero(1);
    if (T == 2) _tile_zero(2);
    if (T == 2 && V == 2) _tile_zero(3);
    for (std::int64_t j = 0; j < words; j += 16) {
      _tile_loadd(6, weights + j * 64, 64);
      _tile_loadd(4, fields + j * 4, bytes);
      _tile_dpbusd(0, 4, 6);
      if (V == 2) {
        _tile_loadd(7, weights + (words + j) * 64, 64);
        _tile_dpbusd(1, 4, 7);
      }
      if (T == 2) {
        _tile_loadd(5, fields + 16 * bytes + j * 4, bytes);
        _tile_dpbusd(2, 5, 6);
      }
      if (T == 2 && V == 2) _tile_dpbusd(3, 5, 7);
    }
    _tile_stored(0, out, 4 * stride);
    if (V == 2) _tile_stored(1, out + 16, 4 * stride);
    if (T == 2) _tile_stored(2, out + 16 * stride, 4 * stride);
    if (T == 2 && V == 2) _tile_stored(3, out + 16 * stride + 16, 4 * stride);
    settle();
  }

  // Compilers do not know that the instructions on tiles read and write memory.
  static void settle() { asm volatile("" ::: "memory"); }
};

}  // namespace
}  // namespace bipft
