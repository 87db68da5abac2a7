// The kernels' own test, without Python: run it under sanitizers, under an emulator, or with a
// number of seconds to fuzz shapes. Prints what failed and exits with 1.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "compile.h"
#include "testing.h"
#include "threads.h"

namespace {

using namespace bipft;
using namespace testing;

// Every path against one bit at a time.
void test_product(int in, int out, int count) {
  const auto weights = random_bytes(out * ceil_div(in, 8));
  std::vector<std::uint8_t> activations(count * row_bytes(in), 0);
  for (int t = 0; t < count; ++t)
    for (int k = 0; k < in; ++k)
      activations[t * row_bytes(in) + k / 8] |=
          static_cast<std::uint8_t>(between(0, 1) << (k % 8));
  std::vector<std::int32_t> expected(count * out);
  for (int t = 0; t < count; ++t)
    for (int n = 0; n < out; ++n) {
      int acc = 0;
      for (int k = 0; k < in; ++k) {
        const int a = activations[t * row_bytes(in) + k / 8] >> (k % 8) & 1;
        const int w = weights[n * ceil_div(in, 8) + k / 8] >> (k % 8) & 1;
        acc += a == w ? 1 : -1;
      }
      expected[t * out + n] = acc;
    }
  const std::string shape =
      std::to_string(count) + " x " + std::to_string(in) + " x " + std::to_string(out);
  for (const Path* path : supported_paths()) {
    std::vector<std::uint8_t> woven(interleaved_bytes(path->layout, in, out));
    interleave(path->layout, weights.data(), ceil_div(in, 8), in, out, woven.data());
    std::vector<std::int32_t> result(count * out, 12345);
    path->product(woven.data(), in, out, activations.data(), count, result.data(), between(1, 3));
    check(result == expected, "product", *path, shape);
  }
}

// Linears of every pair of bits against one code at a time: scales are 1, so outputs are integers.
void test_linear(int in, int out, int count, int weight_bits, int bits) {
  const int bytes = static_cast<int>(ceil_div(in, 8));
  const auto planes = random_bytes(weight_bits * out * bytes);
  const std::vector<float> zeros(std::max(in, out), 0.0f), ones(out, 1.0f);
  Source source;
  source.numbers = {{"linear.inputs", in}, {"linear.outputs", out}, {"linear.bits", bits},
                    {"linear.weight_bits", weight_bits}};
  source.words = {{"linear.dynamic_scale", "none"}};
  source.arrays = {{"linear.weight", {planes.data(), weight_bits * out * bytes, 1}},
                   {"linear.shift", {zeros.data(), in, 4}},
                   {"linear.bias", {zeros.data(), out, 4}},
                   {"linear.weight_scale", {ones.data(), out, 4}},
                   {"linear.activation_scale", {ones.data(), 1, 4}}};
  std::vector<float> x(count * in), expected(count * out);
  for (float& code : x)
    code = static_cast<float>(2 * between(0, (1 << bits) - 1) - (1 << bits) + 1);
  for (int n = 0; n < out; ++n)
    for (int k = 0; k < in; ++k) {
      int code = 0;
      for (int p = 0; p < weight_bits; ++p)
        code += (planes[(p * out + n) * bytes + k / 8] >> (k % 8) & 1 ? 1 : -1) * (1 << p);
      for (int t = 0; t < count; ++t)
        expected[t * out + n] += x[t * in + k] * static_cast<float>(code);
    }
  for (const Path* path : supported_paths()) {
    const Aligned program(compile_linear(source, *path));
    std::vector<float> y(count * out, 0.5f);
    path->binary_linear(LinearProgram::view(program.data, program.size), x.data(), count, y.data(),
                        between(1, 3));
    check(y == expected, "linear", *path,
          std::to_string(count) + " x " + std::to_string(in) + " x " + std::to_string(out) + ", W" +
              std::to_string(weight_bits) + "A" + std::to_string(bits));
  }
}

// Callers on several threads share as many as each of them asks for, and an exception of the body
// reaches its caller alone.
void test_callers() {
  constexpr int kCallers = 4, kThreads = 2, kItems = 200;
  std::atomic<int> running{0}, most{0}, done{0}, thrown{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller)
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 20; ++round) try {
          parallel_for(kItems, kThreads, [&](std::int64_t item, int worker) {
            if (worker < 0 || worker >= kThreads) throw std::logic_error("no such worker");
            const int now = ++running;
            int before = most;
            while (before < now && !most.compare_exchange_weak(before, now)) {}
            ++done;
            --running;
            if (caller == 0 && item == kItems - 1) throw std::runtime_error("as it should");
          });
        } catch (const std::runtime_error&) {
          ++thrown;
        }
    });
  for (auto& caller : callers) caller.join();
  const Path& path = *supported_paths().front();
  check(most <= kThreads, "callers share threads", path, std::to_string(most));
  check(done == 20 * kCallers * kItems, "every item once", path, std::to_string(done));
  check(thrown == 20, "exceptions", path, std::to_string(thrown));
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0;
  test_product(64, 7, 0);
  for (int in : {1, 3, 8, 33, 63, 64, 65, 100, 248, 249, 384, 768, 3072})
    for (int out : {1, 7, 33, 65}) test_product(in, out, between(1, 9));
  for (int weight_bits : {1, 2, 3, 4})
    for (int bits : {1, 2, 4, 8}) {
      test_linear(between(1, 400), between(1, 70), 0, weight_bits, bits);
      for (int count : {1, 2, 7, 37})
        test_linear(between(1, 400), between(1, 70), count, weight_bits, bits);
    }
  test_callers();
  test_blocks();
  test_tables(1, 1, 1);
  for (int columns : {3, 8, 17, 100, 768}) test_tables(between(1, 40), columns, between(1, 13));
  const auto start = std::chrono::steady_clock::now();
  long rounds = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
    test_product(between(1, 2000), between(1, 150), between(1, 20));
    test_linear(between(1, 900), between(1, 150), between(1, 70), between(1, 4),
                1 << between(0, 3));
    test_random_block();
    test_tables(between(1, 40), between(1, 400), between(1, 40));
    ++rounds;
  }
  for (const Path* path : supported_paths()) std::printf("%s ", path->name);
  std::printf("tested, %ld random rounds, %d failures\n", rounds, failures);
  return failures != 0;
}
