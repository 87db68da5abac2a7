// What a block is compiled from, read by name.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>

#include "compile.h"

namespace bipft {

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument(what); }

// What a description and the tensors of a block say, each of the latter read at least once.
class Reader {
 public:
  explicit Reader(const Source& source) : source_(source) {}

  bool says(const std::string& name) const {
    return source_.numbers.count(name) != 0 || source_.words.count(name) != 0;
  }
  bool has(const std::string& name) const { return source_.arrays.count(name) != 0; }

  double number(const std::string& name) const {
    const auto found = source_.numbers.find(name);
    if (found == source_.numbers.end()) refuse("missing number " + name);
    return found->second;
  }

  std::int64_t whole(const std::string& name, std::int64_t least, std::int64_t most) const {
    const double value = number(name);
    if (!(value >= static_cast<double>(least) && value <= static_cast<double>(most)))
      refuse(name + " is out of range: " + std::to_string(value));
    return static_cast<std::int64_t>(value);
  }
  std::int64_t width(const std::string& name) const { return whole(name, 1, kWidest); }
  bool flag(const std::string& name) const { return whole(name, 0, 1) != 0; }

  const std::string& word(const std::string& name) const {
    const auto found = source_.words.find(name);
    if (found == source_.words.end()) refuse("missing word " + name);
    return found->second;
  }

  template <class T>
  T one_of(const std::string& name, const std::map<std::string, T>& known) const {
    const auto found = known.find(word(name));
    if (found == known.end()) refuse(name + " is unknown: " + word(name));
    return found->second;
  }

  // Rows of `count` / `width` entries in an array that is there.
  std::int64_t rows(const std::string& name, std::int64_t width) const {
    const auto found = source_.arrays.find(name);
    if (found == source_.arrays.end() || found->second.count % width)
      refuse("array " + name + " has another size than expected");
    return found->second.count / width;
  }

  template <class T>
  const T* array(const std::string& name, std::int64_t count) {
    const auto found = source_.arrays.find(name);
    if (found == source_.arrays.end()) refuse("missing array " + name);
    if (found->second.count != count ||
        found->second.bytes_per_entry != static_cast<int>(sizeof(T)))
      refuse("array " + name + " has another size than expected");
    read_.insert(name);
    return static_cast<const T*>(found->second.data);
  }

  // A tensor that nothing reads is a part of the block that would be left out in silence.
  void check_all_read() const {
    for (const auto& [name, array] : source_.arrays)
      if (!read_.count(name)) refuse("no kernel reads the array " + name);
  }

 private:
  const Source& source_;
  std::set<std::string> read_;
};

}  // namespace bipft
