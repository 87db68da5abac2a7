// The few AVX-512 instructions that the kernels use, in plain C++: the path can then be tested on
// a processor without them. Built with -DBIPFT_EMULATE_AVX512, for tests alone.
#pragma once

#include <cstdint>
#include <cstring>

namespace bipft {
namespace emulated {

struct Vector {
  std::uint64_t lane[8];
};

template <class F>
inline Vector each(F f) {
  Vector v;
  for (int i = 0; i < 8; ++i) v.lane[i] = f(i);
  return v;
}

inline Vector zero() { return each([](int) { return std::uint64_t{0}; }); }
inline Vector set1(std::int64_t x) {
  return each([=](int) { return static_cast<std::uint64_t>(x); });
}
inline Vector load(const void* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Vector add(Vector a, Vector b) { return each([&](int i) { return a.lane[i] + b.lane[i]; }); }
inline Vector exclusive_or(Vector a, Vector b) {
  return each([&](int i) { return a.lane[i] ^ b.lane[i]; });
}
inline Vector popcount(Vector a) {
  return each([&](int i) { return static_cast<std::uint64_t>(__builtin_popcountll(a.lane[i])); });
}
inline Vector set1_32(std::int32_t x) {
  return each([=](int) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(x)) * 0x100000001u;
  });
}
inline void store(void* p, Vector v) { std::memcpy(p, &v, sizeof v); }
inline Vector dot_bytes(Vector sum, Vector a, Vector w) {
  std::int32_t sums[16];
  std::uint8_t fields[64];
  std::int8_t codes[64];
  std::memcpy(sums, &sum, sizeof sum);
  std::memcpy(fields, &a, sizeof a);
  std::memcpy(codes, &w, sizeof w);
  for (int k = 0; k < 64; ++k) sums[k / 4] += fields[k] * codes[k];
  return load(sums);
}
inline __m128i narrow(Vector a) {
  std::uint16_t lanes[8];
  for (int i = 0; i < 8; ++i) lanes[i] = static_cast<std::uint16_t>(a.lane[i]);
  __m128i v;
  std::memcpy(&v, lanes, sizeof v);
  return v;
}

}  // namespace emulated
}  // namespace bipft

#define __m512i ::bipft::emulated::Vector
#define _mm512_setzero_si512 ::bipft::emulated::zero
#define _mm512_set1_epi64 ::bipft::emulated::set1
#define _mm512_set1_epi32 ::bipft::emulated::set1_32
#define _mm512_storeu_si512 ::bipft::emulated::store
#define _mm512_dpbusd_epi32 ::bipft::emulated::dot_bytes
#define _mm512_loadu_si512 ::bipft::emulated::load
#define _mm512_add_epi64 ::bipft::emulated::add
#define _mm512_xor_si512 ::bipft::emulated::exclusive_or
#define _mm512_popcnt_epi64 ::bipft::emulated::popcount
#define _mm512_cvtepi64_epi16 ::bipft::emulated::narrow
