#include "base/output_file.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace longshore {
namespace {

namespace fs = std::filesystem;

std::string slurp(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

Result<void> put(const std::string& path, const std::string& text) {
  LS_TRY(OutputFile file, OutputFile::create(path));
  LS_TRY_VOID(file.write(text.data(), text.size()));
  return file.commit();
}

class OutputFileTest : public testing::Test {
 protected:
  OutputFileTest() {
    std::string name = (fs::temp_directory_path() / "longshore-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    dir = name;
  }
  ~OutputFileTest() override { fs::remove_all(dir); }
  [[nodiscard]] std::string file(const std::string& name) const { return (dir / name).string(); }
  [[nodiscard]] size_t files() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(dir), fs::directory_iterator()));
  }
  fs::path dir;
};

TEST_F(OutputFileTest, ReplacesAFileOnlyWhenComplete) {
  ASSERT_TRUE(put(file("x"), "old"));
  fs::permissions(file("x"), fs::perms::owner_read | fs::perms::owner_write);
  {
    auto unfinished = OutputFile::create(file("x"));
    ASSERT_TRUE(unfinished);
    ASSERT_TRUE(unfinished->write("new", 3));
    EXPECT_EQ(slurp(file("x")), "old");
  }
  EXPECT_EQ(slurp(file("x")), "old");
  EXPECT_EQ(files(), 1U) << "the unfinished file is gone";
  ASSERT_TRUE(put(file("x"), "new"));
  EXPECT_EQ(slurp(file("x")), "new");
  EXPECT_EQ(files(), 1U);
  EXPECT_EQ(fs::status(file("x")).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(OutputFileTest, ANewFileHasTheModeThatTheUserSet) {
  const mode_t mask = umask(027);
  ASSERT_TRUE(put(file("x"), ""));
  umask(mask);
  struct stat status {};
  ASSERT_EQ(stat(file("x").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0640U);
}

TEST_F(OutputFileTest, WritesThroughSymbolicLinks) {
  fs::create_directory(dir / "sub");
  ASSERT_TRUE(put(file("sub/target"), "old"));
  fs::create_symlink("sub/target", dir / "one");
  fs::create_symlink("one", dir / "two");
  ASSERT_TRUE(put(file("two"), "new"));
  EXPECT_TRUE(fs::is_symlink(dir / "two"));
  EXPECT_TRUE(fs::is_symlink(dir / "one"));
  EXPECT_EQ(slurp(dir / "sub/target"), "new");
  fs::create_symlink(dir / "sub/later", dir / "dangling");
  ASSERT_TRUE(put(file("dangling"), "made"));
  EXPECT_TRUE(fs::is_symlink(dir / "dangling"));
  EXPECT_EQ(slurp(dir / "sub/later"), "made");
}

TEST_F(OutputFileTest, WritesIntoAPipeAndLeavesItThere) {
  ASSERT_EQ(mkfifo(file("pipe").c_str(), 0600), 0);
  std::string got;
  std::thread reader([&] { got = slurp(file("pipe")); });
  EXPECT_TRUE(put(file("pipe"), "through"));
  // Without a writer the reader would wait for ever.
  if (!fs::is_fifo(dir / "pipe")) ADD_FAILURE() << "the pipe was replaced";
  reader.join();
  EXPECT_EQ(got, "through");
}

TEST_F(OutputFileTest, FailuresNameThePathAndTheReason) {
  const auto full = put("/dev/full", "text");
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().kind, ErrorKind::kIo);
  EXPECT_EQ(full.error().message, "/dev/full: cannot write: No space left on device");
  const auto nowhere = put("/nonexistent/x", "");
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().message, "/nonexistent/x: cannot write: No such file or directory");
  EXPECT_FALSE(put(dir.string(), "")) << "a directory";
}

}  // namespace
}  // namespace longshore
