#include "path.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace bipft {
namespace {

const std::vector<const Path*>& all_paths() {
  static const std::vector<const Path*> paths{
#ifdef BIPFT_AMX
      &kAmx,
#endif
#ifdef BIPFT_X86
      &kAvx512, &kAvx2,
#endif
#ifdef BIPFT_NEON
      &kNeon,
#endif
      &kPortable};
  return paths;
}

}  // namespace

const std::vector<const Path*>& supported_paths() {
  static const std::vector<const Path*> paths = [] {
    std::vector<const Path*> found;
    for (const Path* path : all_paths())
      if (path->supported()) found.push_back(path);
    return found;
  }();
  return paths;
}

const Path& path_by_name(const char* name) {
  std::string known;
  for (const Path* path : supported_paths()) {
    if (!std::strcmp(path->name, name)) return *path;
    known += (known.empty() ? "" : ", ") + std::string(path->name);
  }
  throw std::invalid_argument("there is no path '" + std::string(name) +
                              "' on this processor; choose one of: " + known);
}

std::int64_t path_number(const Path& path) {
  const auto& paths = all_paths();
  for (std::size_t i = 0; i < paths.size(); ++i)
    if (paths[i] == &path) return static_cast<std::int64_t>(i);
  return -1;
}

const Path& path_by_number(std::int64_t number) {
  for (const Path* path : supported_paths())
    if (path_number(*path) == number) return *path;
  throw std::invalid_argument("the block was compiled for another processor");
}

}  // namespace bipft
