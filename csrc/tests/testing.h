// What the kernels' own tests share: random numbers, and failures.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "path.h"

namespace testing {

inline std::mt19937 generator(0);
inline int failures = 0;

inline int between(int least, int most) {
  return std::uniform_int_distribution<int>(least, most)(generator);
}

inline std::vector<float> normal(std::int64_t count, float scale) {
  std::normal_distribution<float> draw(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = draw(generator);
  return values;
}

inline std::vector<std::uint8_t> random_bytes(std::int64_t count) {
  std::vector<std::uint8_t> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(between(0, 255));
  return bytes;
}

// A program lies on a boundary of 64 bytes.
struct Aligned {
  explicit Aligned(const std::vector<std::uint8_t>& bytes)
      : storage(bytes.size() + 64), size(static_cast<std::int64_t>(bytes.size())) {
    data = storage.data() + (64 - reinterpret_cast<std::uintptr_t>(storage.data()) % 64) % 64;
    std::copy(bytes.begin(), bytes.end(), data);
  }
  std::vector<std::uint8_t> storage;
  std::uint8_t* data;
  std::int64_t size;
};

inline void check(bool fine, const char* what, const bipft::Path& path, const std::string& shape) {
  if (fine) return;
  ++failures;
  std::printf("FAILED %s on %s: %s\n", what, path.name, shape.c_str());
}

// Every path of blocks of fixed shapes, what is refused, and one block of a random shape.
void test_blocks();
void test_random_block();

// Every path of tables of `rows` rows, and of words in parts of `part` numbers.
void test_tables(int rows, int columns, int part);

}  // namespace testing
