// Whole blocks: one thread against several, one path against another, and whatever does not fit.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "random_block.h"

namespace testing {
namespace {

std::vector<float> run(const Path& path, const Program& program, const Input& input, int threads) {
  std::vector<float> y(input.batch * input.length * program.hidden, NAN);
  path.block(program, input, y.data(), threads);
  return y;
}

// Any number of threads gives the same bits, as do planes and bytes; paths agree but for rounding;
// padding is not read.
void test_block(const Shape& s) {
  const RandomBlock block(s);
  RandomInput given(s);
  const int tokens = s.batch * s.length;
  std::vector<float> first;
  for (const Path* path : supported_paths()) {
    const Aligned buffer(compile_block(block.source, *path));
    const Program& program = Program::view(buffer.data, buffer.size);
    const auto y = run(*path, program, given.input, 1);
    check(y == run(*path, program, given.input, 3), "block on three threads", *path, s.text());
    for (const std::int64_t planes : {2, 1000}) {
      const Aligned other(compile_block(block.source, *path, planes));
      check(y == run(*path, Program::view(other.data, other.size), given.input, 2),
            planes == 2 ? "block as bytes" : "block as planes", *path, s.text());
    }
    int far = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      const float expected = first.empty() ? y[i] : first[i];
      if (!(std::fabs(y[i] - expected) <= 1e-3f * (1 + std::fabs(expected)))) ++far;
    }
    // A number that lies on a threshold but for rounding may fall on its other side.
    check(far <= static_cast<int>(y.size() / 50 + 2 * s.hidden), "block", *path, s.text());
    if (s.masked) {
      auto other = given.x;
      for (int t = 0; t < tokens; ++t)
        if (!given.mask[t]) std::fill_n(other.begin() + t * s.hidden, s.hidden, 100.0f);
      Input changed = given.input;
      changed.x = other.data();
      const auto z = run(*path, program, changed, 2);
      bool same = true;
      for (int t = 0; t < tokens; ++t)
        if (given.mask[t])
          same = same && !std::memcmp(&y[t * s.hidden], &z[t * s.hidden], s.hidden * sizeof(float));
      check(same, "padding", *path, s.text());
    }
    // What is not a number must not become an index or a code.
    std::vector<float> strange(given.x.size(), NAN);
    for (std::size_t i = 0; i < strange.size(); i += 3) strange[i] = INFINITY;
    Input changed = given.input;
    changed.x = strange.data();
    run(*path, program, changed, 1);
    if (first.empty()) first = y;
  }
}

template <class Call>
bool refused(Call call) {
  try {
    call();
    return false;
  } catch (const std::invalid_argument&) {
    return true;
  }
}

Shape everything() {
  Shape s;
  s.rank = s.networks = 2;
  s.gated = true;
  s.positions = kDisentangled;
  s.stream = 20;
  return s;
}

// Compiled from an array or a fact less, an array shorter, or one more than kernels read.
void test_sources(const Shape& s) {
  const RandomBlock block(s);
  const Path& path = *supported_paths().front();
  const auto compiles = [&](const Source& source) {
    const Aligned program(compile_block(source, path));
    Program::view(program.data, program.size);
  };
  check(!refused([&] { compiles(block.source); }), "a whole block", path, s.text());
  for (const auto& [name, array] : block.source.arrays) {
    Source shorter = block.source;
    shorter.arrays[name].count -= 1;
    check(refused([&] { compiles(shorter); }), "shorter array", path, name);
    Source more = block.source;
    more.arrays["another " + name] = array;
    check(refused([&] { compiles(more); }), "unknown array", path, name);
  }
  for (const auto& [name, value] : block.source.numbers)
    for (const double wrong : {-1.0, 65535.0, 1e300, std::nan("")}) {
      if (name.size() > 4 && name.substr(name.size() - 4) == ".eps") continue;
      Source changed = block.source;
      changed.numbers[name] = wrong;
      // A window may be wider than any sequence.
      const bool fine = name == "attention.window" && wrong == 65535.0;
      check(fine || refused([&] { compiles(changed); }), "wrong number", path, name);
    }
  for (const auto& [name, value] : block.source.words) {
    if (value == kUnknownActivation) continue;
    Source changed = block.source;
    changed.words[name] = "odd";
    check(refused([&] { compiles(changed); }), "wrong word", path, name);
  }
}

// Whatever a program says of itself, nothing but its own bytes is read.
void test_damaged_programs(const Shape& s) {
  const RandomBlock block(s);
  const RandomInput given(s);
  const Path& path = *supported_paths().front();
  const auto bytes = compile_block(block.source, path);
  for (std::size_t size : {std::size_t{0}, std::size_t{8}, bytes.size() - 1}) {
    const Aligned cut(std::vector<std::uint8_t>(bytes.begin(), bytes.begin() + size));
    check(refused([&] { Program::view(cut.data, cut.size); }), "truncated program", path,
          std::to_string(size));
  }
  const auto size = static_cast<std::int64_t>(bytes.size());
  const std::int64_t tail = round_up(s.networks * sizeof(FeedForwardPart), 64);
  for (std::int64_t word = 0; word < size; word += 8) {
    if (word == static_cast<std::int64_t>(round_up(sizeof(Program), 64))) word = size - tail;
    for (const std::int64_t wrong :
         {std::int64_t{-1}, std::int64_t{0}, std::int64_t{1}, std::int64_t{65535},
          std::int64_t{1} << 40, INT64_MAX, INT64_MIN, std::int64_t{between(0, 70000)}}) {
      Aligned program(bytes);
      std::memcpy(program.data + word, &wrong, sizeof wrong);
      try {
        run(path, Program::view(program.data, program.size), given.input, 1);
      } catch (const std::invalid_argument&) {
      }
    }
  }
}

}  // namespace

void test_blocks() {
  Shape s;
  for (int length : {1, 4, 5, 63, 64, 65, 130})
    for (int bits : {1, 2, 4, 8})
      for (int rank : {0, 2}) {
        s = Shape{};
        s.bits = bits;
        s.rank = rank;
        s.weight_bits = 1 + (length + rank) % 4;
        s.length = length;
        s.batch = 2;
        s.masked = true;
        test_block(s);
        s.key_value_bits = bits;
        s.positions = static_cast<Positions>(length % kPositions);
        s.masked = false;
        test_block(s);
      }
  s = Shape{};
  s.heads = s.key_value_heads = 1;
  s.head_dim = s.hidden = s.stream = 70;
  s.inner = 300;
  s.folded = s.masked = true;
  test_block(s);
  test_sources(s);
  test_damaged_programs(s);
  test_sources(everything());
  test_damaged_programs(everything());
  s.window = 3;
  s.folded = false;
  s.positions = kHalvesTurn;
  test_sources(s);
  test_damaged_programs(s);
}

void test_random_block() {
  const int widths[] = {1, 2, 4, 8};
  const char* norms[] = {"layer", "rms", "affine", "none"};
  Shape s;
  s.key_value_heads = between(1, 3);
  s.heads = s.key_value_heads * between(1, 2);
  s.head_dim = between(1, 70);
  s.inner = between(1, 140);
  s.hidden = s.stream = between(1, 150);
  if (between(0, 3) == 0) s.stream = between(1, 60);
  s.bits = widths[between(0, 3)];
  s.key_value_bits = widths[between(0, 3)];
  s.weight_bits = between(1, 4);
  s.batch = between(1, 3);
  s.length = between(1, 140);
  s.rank = between(0, 2);
  s.networks = between(1, 3);
  s.window = between(0, 2) ? -1 : between(0, 40);
  s.norm = norms[between(0, 3)];
  s.first = between(0, 1);
  s.gated = between(0, 2) == 0;
  s.boolean = s.bits == 1 && between(0, 3) == 0;
  s.masked = between(0, 1);
  s.positions = static_cast<Positions>(between(0, kPositions - 1));
  const bool rotary = s.positions == kHalvesTurn || s.positions == kNeighboursTurn;
  if (rotary) s.head_dim += s.head_dim % 2;
  s.folded = s.bits == 1 && s.key_value_bits == 1 && s.rank == 0 && !rotary && between(0, 1);
  test_block(s);
}

}  // namespace testing
