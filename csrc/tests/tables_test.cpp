// Tables read and multiplied with, against one number at a time.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "testing.h"

namespace testing {
namespace {

using namespace bipft;

// Owns what a Table borrows. Steps are fp16, the smallest and subnormal ones among them.
struct RandomTable {
  RandomTable(int rows, int columns, int bits)
      : packed(random_bytes(rows * ceil_div(columns * bits, 8))), steps(rows) {
    for (auto& step : steps) step = static_cast<std::uint16_t>(between(1, 0x3fff));
    table = {packed.data(), steps.data(), rows, columns, bits};
  }
  RandomTable(const RandomTable&) = delete;

  float at(std::int64_t row, int column) const {
    const int bits = table.bits, start = column * bits;
    const std::uint8_t* bytes = packed.data() + row * ceil_div(table.columns * bits, 8);
    const int field = bytes[start / 8] >> (start % 8) & ((1 << bits) - 1);
    const int exponent = steps[row] >> 10, mantissa = steps[row] & 1023;
    const float step = exponent ? std::ldexp(1.0f + static_cast<float>(mantissa) / 1024, exponent - 15)
                                : std::ldexp(static_cast<float>(mantissa), -24);
    return static_cast<float>(bits == 1 ? 2 * field - 1 : field - ((1 << (bits - 1)) - 1)) * step;
  }

  std::vector<std::uint8_t> packed;
  std::vector<std::uint16_t> steps;
  Table table;
};

template <class Call>
bool refuses(Call call) {
  try {
    call();
    return false;
  } catch (const std::out_of_range&) {
    return true;
  }
}

// Rows by id, exactly; any number of threads; ids that there are not.
template <class Read, class Expected>
void test_ids(const Path& path, const char* what, std::int64_t rows, int columns, Read read,
              Expected expected) {
  const std::string shape = std::to_string(rows) + " x " + std::to_string(columns);
  std::vector<std::int64_t> ids(between(1, 50));
  for (auto& id : ids) id = between(0, static_cast<int>(rows) - 1);
  const auto count = static_cast<std::int64_t>(ids.size());
  std::vector<float> out(count * columns, NAN);
  read(ids.data(), count, out.data(), between(1, 3));
  bool same = true;
  for (std::int64_t i = 0; i < count; ++i)
    for (int k = 0; k < columns; ++k) same = same && out[i * columns + k] == expected(ids[i], k);
  check(same, what, path, shape);
  for (std::int64_t id : {std::int64_t{-1}, rows, std::int64_t{1} << 40}) {
    ids.back() = id;
    check(refuses([&] { read(ids.data(), count, out.data(), between(1, 3)); }), "missing row", path,
          shape);
  }
}

void test_linear(const Path& path, const RandomTable& random, int count) {
  const Table& t = random.table;
  const auto x = normal(count * t.columns, 1.0f), bias = normal(t.rows, 1.0f);
  std::vector<float> y(count * t.rows, NAN), again(count * t.rows, NAN);
  path.linear(t, bias.data(), x.data(), count, y.data(), 1);
  path.linear(t, bias.data(), x.data(), count, again.data(), 3);
  bool close = true;
  for (int i = 0; i < count; ++i)
    for (std::int64_t n = 0; n < t.rows; ++n) {
      double sum = bias[n], size = 1;
      for (int k = 0; k < t.columns; ++k) {
        const double term = static_cast<double>(random.at(n, k)) * x[i * t.columns + k];
        sum += term;
        size += std::fabs(term);
      }
      close = close && std::fabs(y[i * t.rows + n] - sum) < 1e-6 * size;
    }
  const std::string shape = std::to_string(count) + " x " + std::to_string(t.columns) + " x " +
                            std::to_string(t.rows) + ", " + std::to_string(t.bits) + " bits";
  check(close, "linear", path, shape);
  check(y == again, "linear on three threads", path, shape);
}

void test_words(int count, int columns, int part) {
  const auto flags = random_bytes(ceil_div(count, 8));
  const auto is_frequent = [&](std::int64_t id) { return flags[id / 8] >> (id % 8) & 1; };
  std::vector<std::int64_t> rank(count);
  std::vector<std::int32_t> before(flags.size());
  int frequent = 0;
  for (int id = 0; id < count; ++id) {
    if (id % 8 == 0) before[id / 8] = frequent;
    rank[id] = frequent;
    frequent += is_frequent(id);
  }
  const auto parts = static_cast<int>(ceil_div(columns, part)), rare = count - frequent;
  const RandomTable common(frequent, columns, 4);
  const RandomTable books(parts * static_cast<int>(Words::kCentroids), part, 8);
  const auto codes = random_bytes(rare * parts);
  const Words words{common.table, books.table, codes.data(), flags.data(), before.data(), rare, parts};
  const auto expected = [&](std::int64_t id, int k) {
    if (is_frequent(id)) return common.at(rank[id], k);
    const int code = codes[(id - rank[id]) * parts + k / part];
    return books.at(k / part * Words::kCentroids + code, k % part);
  };
  // Flags that mark fewer words than there are rows must not be followed out of the codes.
  Words wrong = words;
  wrong.frequent.rows += 1;
  wrong.rare -= 1;
  for (const Path* path : supported_paths()) {
    test_ids(*path, "words", count, columns,
             [&](auto... given) { path->words(words, given...); }, expected);
    const std::int64_t last = count - 1;
    std::vector<float> out(columns);
    if (!is_frequent(last))
      check(refuses([&] { path->words(wrong, &last, 1, out.data(), 1); }), "wrong flags", *path,
            std::to_string(count));
  }
}

}  // namespace

void test_tables(int rows, int columns, int part) {
  for (int bits : {1, 4, 8}) {
    const RandomTable random(rows, columns, bits);
    for (const Path* path : supported_paths()) {
      test_ids(*path, "rows", rows, columns,
               [&](auto... given) { path->rows(random.table, given...); },
               [&](std::int64_t row, int k) { return random.at(row, k); });
      test_linear(*path, random, between(1, 5));
    }
  }
  test_words(rows + 8, columns, part);
}

}  // namespace testing
