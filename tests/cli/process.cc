#include "tests/cli/process.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "tests/paths.h"

namespace longshore {
namespace {

// Until the child has its handler of SIGINT: on a busy machine its start may take longer than any
// fixed time. A child that ends before has nothing left to interrupt.
void wait_for_handler(pid_t child) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (std::chrono::steady_clock::now() < until) {
    std::ifstream status("/proc/" + std::to_string(child) + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("State:") && line.find('Z') != std::string::npos) return;
      if (!line.starts_with("SigCgt:")) continue;
      const uint64_t caught = std::strtoull(line.c_str() + 7, nullptr, 16);
      if ((caught >> (SIGINT - 1) & 1) != 0) return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

bool has_ended(pid_t child) {
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
         info.si_pid != 0;
}

// Until the child has said so, or has ended and never will.
void wait_for_text(pid_t child, const std::string& path, const std::string& text) {
  while (read_file(path).find(text) == std::string::npos && !has_ended(child))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace

Finished longshore(const std::vector<std::string>& arguments, const std::string& input,
                   int interrupt_ms, const std::string& output, const std::string& until) {
  return run_program(longshore::binary_dir() + "/longshore", arguments, input, interrupt_ms, output,
                     until);
}

Finished run_program(const std::string& program, const std::vector<std::string>& arguments,
                     const std::string& input, int interrupt_ms, const std::string& output,
                     const std::string& until) {
  const TemporaryDirectory dir;
  write_file(dir.file("in"), input);
  write_file(dir.file("out"), "");
  std::vector<std::string> words = {program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  int open_end[2];
  LS_CHECK(pipe2(open_end, O_CLOEXEC) == 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const bool waits = interrupt_ms >= 0 && input.empty();
  if (waits) {
    posix_spawn_file_actions_adddup2(&actions, open_end[0], 0);
  } else {
    posix_spawn_file_actions_addopen(&actions, 0, dir.file("in").c_str(), O_RDONLY, 0);
  }
  posix_spawn_file_actions_addopen(&actions, 1, (output.empty() ? dir.file("out") : output).c_str(),
                                   O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, dir.file("err").c_str(), O_WRONLY | O_CREAT, 0600);
  pid_t child = 0;
  const int spawned = posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ);
  LS_CHECK_MSG(spawned == 0, "{}", words[0]);
  posix_spawn_file_actions_destroy(&actions);
  if (interrupt_ms >= 0) {
    wait_for_handler(child);
    if (!until.empty()) wait_for_text(child, dir.file("out"), until);
    std::this_thread::sleep_for(std::chrono::milliseconds(interrupt_ms));
    kill(child, SIGINT);
  }
  int status = 0;
  struct rusage usage {};
  LS_CHECK(wait4(child, &status, 0, &usage) == child);
  close(open_end[0]);
  close(open_end[1]);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          read_file(dir.file("out")), read_file(dir.file("err")), int64_t{usage.ru_maxrss} * 1024};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  LS_CHECK_MSG(stream.good(), "{}", path);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

void write_file(const std::string& path, const std::string& content) {
  std::ofstream stream(path, std::ios::binary);
  stream << content;
  LS_CHECK_MSG(stream.good(), "{}", path);
}

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = std::filesystem::temp_directory_path().string() + "/longshore-test-XXXXXX";
  LS_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace longshore
