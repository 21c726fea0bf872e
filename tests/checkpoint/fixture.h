// Checkpoints in temporary directories that a test may break.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/error.h"
#include "tests/paths.h"

namespace longshore::testing {

inline std::string source(const std::string& path) {
  return longshore::source_dir() + "/" + path;
}
inline std::string conformance(const std::string& name) {
  return source("tests/data/conformance/" + name);
}

inline std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}
inline void spit(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  EXPECT_TRUE(file.good()) << path;
}

// An error that a user can act on: one line, of this kind, with these words in it.
template <typename T>
void expect_error(const Result<T>& result, ErrorKind kind, const std::vector<std::string>& words) {
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().kind, kind);
  const std::string& message = result.error().message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  for (const std::string& word : words) EXPECT_THAT(message, ::testing::HasSubstr(word));
}

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "longshore-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A copy of a conformance checkpoint, with its only shard as header and data.
class BrokenCheckpoint {
 public:
  static constexpr const char* kShard = "model-00001-of-00001.safetensors";
  static constexpr const char* kIndex = "model.safetensors.index.json";

  explicit BrokenCheckpoint(const std::string& name) {
    std::filesystem::copy(conformance(name), dir.path());
    const std::string content = slurp(dir.file(kShard));
    uint64_t length = 0;
    std::memcpy(&length, content.data(), 8);
    header = nlohmann::ordered_json::parse(content.substr(8, length));
    data = content.substr(8 + length);
  }

  // Writes the shard; pad: spaces after the header, to move the data.
  void save(size_t pad = 0) const {
    std::string text = header.dump() + std::string(pad, ' ');
    const uint64_t length = text.size();
    std::string prefix(8, '\0');
    std::memcpy(prefix.data(), &length, 8);
    spit(dir.file(kShard), prefix + text + data);
  }
  void edit_config(const std::string& key, const nlohmann::json& value) const {
    edit(dir.file("config.json"), [&](nlohmann::json& config) { config[key] = value; });
  }
  template <typename Edit>
  void edit_index(const Edit& change) const {
    edit(dir.file(kIndex), [&](nlohmann::json& index) { change(index["weight_map"]); });
  }
  [[nodiscard]] size_t begin_of(const std::string& tensor) const {
    return header.at(tensor)["data_offsets"][0].get<size_t>();
  }
  // Overwrites bytes of a tensor's data.
  template <typename T>
  void poke(const std::string& tensor, size_t element, T value) {
    std::memcpy(data.data() + begin_of(tensor) + element * sizeof(T), &value, sizeof(T));
  }
  // Takes a tensor and its data out of the shard.
  void remove(const std::string& tensor) {
    const size_t begin = begin_of(tensor);
    const size_t end = header.at(tensor)["data_offsets"][1].get<size_t>();
    header.erase(tensor);
    data.erase(begin, end - begin);
    for (auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      for (auto& offset : entry["data_offsets"]) {
        if (offset.get<size_t>() >= end) offset = offset.get<size_t>() - (end - begin);
      }
    }
  }

  TempDir dir;
  nlohmann::ordered_json header;
  std::string data;

 private:
  template <typename Edit>
  static void edit(const std::string& path, const Edit& change) {
    nlohmann::json document = nlohmann::json::parse(slurp(path));
    change(document);
    spit(path, document.dump());
  }
};

}  // namespace longshore::testing
