// --device, with no device and with one that needs no hardware (fake_cuda/): what every command
// says, where it runs, and how it ends when the device fails.
#include <cstdlib>
#include <filesystem>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "checkpoint/safetensors.h"
#include "tests/cli/process.h"
#include "tests/paths.h"

namespace longshore {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::string kNano = longshore::source_dir() + "/models/glm-nano";
constexpr int kUsage = 2;
constexpr int kDevice = 5;

// The program in a folder of its own: without a device, or with the fake one beside it.
class Program {
 public:
  explicit Program(bool with_device) {
    std::filesystem::copy_file(longshore::binary_dir() + "/longshore", path());
    if (with_device) {
      const std::string name = "liblongshore_cuda.so";
      std::filesystem::create_symlink(longshore::binary_dir() + "/tests/fake_device/" + name,
                                      dir_.file(name));
    }
  }
  [[nodiscard]] Finished run(const std::vector<std::string>& arguments,
                             const std::string& input = "") const {
    return run_program(path(), arguments, input);
  }
  [[nodiscard]] std::string file(const std::string& name) const { return dir_.file(name); }

 private:
  [[nodiscard]] std::string path() const { return dir_.file("longshore"); }
  TemporaryDirectory dir_;
};

// The device's operation number `at` fails.
class FailAt {
 public:
  explicit FailAt(int at) { setenv("LONGSHORE_FAKE_FAIL_AT", std::to_string(at).c_str(), 1); }
  ~FailAt() { unsetenv("LONGSHORE_FAKE_FAIL_AT"); }
  FailAt(const FailAt&) = delete;
  FailAt& operator=(const FailAt&) = delete;
};

std::vector<std::string> generate(const std::string& device, int tokens = 6) {
  return {"generate",      kNano, "-p",           "What is 7 plus 9?",    "--json",
          "--temperature", "0",   "--max-tokens", std::to_string(tokens), "--device",
          device};
}

TEST(Device, WithoutOneTheRefusalIsOneLine) {
  const Program program(/*with_device=*/false);
  for (const std::string device : {"cuda", "cuda:1"}) {
    const Finished run = program.run(generate(device));
    EXPECT_EQ(run.exit_code, kDevice) << run.err;
    EXPECT_EQ(run.out, "");
    EXPECT_EQ(lines_of(run.err).size(), 1U) << run.err;
    EXPECT_THAT(run.err, HasSubstr("no CUDA backend"));
    EXPECT_THAT(run.err, HasSubstr("--device cpu"));
  }
}

TEST(Device, TuneRefusesWithoutOneAndOnTheCpu) {
  const Finished without = Program(false).run({"tune"});
  EXPECT_EQ(without.exit_code, kDevice) << without.err;
  EXPECT_EQ(lines_of(without.err).size(), 1U) << without.err;
  EXPECT_THAT(without.err, HasSubstr("no CUDA backend"));
  const Finished cpu = Program(true).run({"tune", "--device", "cpu"});
  EXPECT_EQ(cpu.exit_code, kUsage);
  EXPECT_THAT(cpu.err, HasSubstr("--device cpu"));
  const Finished uneven = Program(true).run({"tune", "--tp", "3"});
  EXPECT_EQ(uneven.exit_code, kUsage);
  EXPECT_THAT(uneven.err, HasSubstr("--tp 3"));
  const Finished narrow = Program(true).run({"tune", kNano, "--tp", "64"});
  EXPECT_EQ(narrow.exit_code, kUsage) << narrow.err;
  EXPECT_THAT(narrow.err, HasSubstr("N = "));
}

TEST(Device, TuneWritesAFileForEachArithmeticWithTheSharedExpertAndWithout) {
  const Program program(true);
  const Finished run = program.run({"tune", "--hidden", "128", "--intermediate", "256", "--tp", "2",
                                    "--experts", "4", "--top-k", "2", "--batch-size", "1,8"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const std::string experts : {"4", "5"}) {
    for (const std::string dtype : {"fp8_w8a16", "fp8_w8a8"}) {
      const std::string name = "E=" + experts + ",N=128,device_name=Fake_GPU,dtype=" + dtype +
                               ",block_shape=[128, 128].json";
      EXPECT_THAT(run.out, HasSubstr(name));
      // Beside the program, where serve looks.
      const json file = json::parse(read_file(program.file("moe-configs/" + name)));
      ASSERT_EQ(file.size(), 2U) << name;
      for (const char* key : {"BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M",
                              "num_warps", "num_stages"}) {
        EXPECT_GE(file["1"][key], 1) << key;
        EXPECT_GE(file["8"][key], 1) << key;
      }
    }
  }
}

TEST(Device, AutoSaysInOneLineWhatItChose) {
  const Finished without = Program(false).run(generate("auto"));
  EXPECT_EQ(without.exit_code, 0) << without.err;
  EXPECT_EQ(lines_of(without.err).size(), 1U) << without.err;
  EXPECT_THAT(without.err, HasSubstr("--device auto: cpu: no CUDA backend"));
  const Finished with = Program(true).run(generate("auto"));
  EXPECT_EQ(with.exit_code, 0) << with.err;
  EXPECT_EQ(with.err, "longshore: --device auto: cuda\n");
}

TEST(Device, BadNamesAndCombinationsAreRefusedByName) {
  const Program program(true);
  for (const std::string device : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", ""}) {
    const Finished run = program.run(generate(device));
    EXPECT_EQ(run.exit_code, kUsage) << device;
    EXPECT_THAT(run.err, HasSubstr("--device")) << device;
  }
  EXPECT_EQ(program.run(generate("cuda:7")).exit_code, kDevice);
  auto arguments = generate("cuda");
  arguments.insert(arguments.end(), {"--precision", "reference"});
  const Finished run = program.run(arguments);
  EXPECT_EQ(run.exit_code, kUsage);
  EXPECT_THAT(run.err, HasSubstr("--precision reference"));
}

TEST(Device, GenerateGivesTheCpusTokens) {
  const Program program(true);
  const Finished cpu = program.run(generate("cpu", 12));
  const Finished cuda = program.run(generate("cuda", 12));
  ASSERT_EQ(cuda.exit_code, 0) << cuda.err;
  EXPECT_EQ(cuda.err, "");
  EXPECT_EQ(json::parse(cpu.out)["ids"], json::parse(cuda.out)["ids"]);
}

TEST(Device, ChatEvalLogitsAndBenchRunThere) {
  const Program program(true);
  const auto same = [&](std::vector<std::string> arguments, const std::string& input) {
    std::string outputs[2];
    for (const int i : {0, 1}) {
      std::vector<std::string> with = arguments;
      with.insert(with.end(), {"--device", i == 0 ? "cpu" : "cuda"});
      const Finished run = program.run(with, input);
      EXPECT_EQ(run.exit_code, 0) << run.err;
      outputs[i] = run.out;
    }
    EXPECT_EQ(outputs[0], outputs[1]);
    EXPECT_NE(outputs[0], "");
  };
  same({"chat", kNano, "--no-think", "--temperature", "0", "--max-tokens", "8"}, "Goodbye!\n");
  same({"eval", kNano, longshore::source_dir() + "/tests/data/eval/tasks-public.jsonl", "--limit",
        "2", "--json"},
       "");
  write_file(program.file("ids"), "[4075, 4077, 17, 18]");
  same({"logits", kNano, "--ids", program.file("ids"), "--mtp", "--out", "/dev/stdout"}, "");
  for (const std::string name : {"decode", "prefill"}) {
    const Finished run = program.run({"bench", name, kNano, "--device", "cuda", "--context", "16",
                                      "--tokens", "2", "--repeats", "1", "--json"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const json report = json::parse(run.out);
    EXPECT_TRUE(report["ceilings"].empty()) << "the host's do not bound a device";
    EXPECT_TRUE(report["rows"][0]["bound"].is_null());
    EXPECT_GT(report["rows"][0]["value"], 0);
  }
}

TEST(Device, BenchDecodeTellsTheDevicesPartsOfAStep) {
  const Program program(true);
  const std::vector<std::string> decode = {
      "bench", "decode",           kNano, "--operations",    "--context", "16",    "--tokens",
      "2",     "--context-length", "128", "--cuda-graph-bs", "1",         "--json"};
  const auto with = [&](std::vector<std::string> arguments, std::vector<std::string> more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return program.run(arguments);
  };
  for (const bool offloaded : {false, true}) {
    const Finished run = with(
        decode, offloaded ? std::vector<std::string>{"--device", "cuda", "--gpu-expert-gib", "0"}
                          : std::vector<std::string>{"--device", "cuda"});
    ASSERT_EQ(run.exit_code, 0) << run.err;
    EXPECT_THAT(run.out, HasSubstr("attention: sparse MLA"));
    EXPECT_THAT(run.out, HasSubstr("bubbles: gaps between operations"));
    EXPECT_EQ(run.out.find("waiting for the wire") != std::string::npos, offloaded) << run.out;
    EXPECT_TRUE(json::parse(run.out)["rows"].size() > 15);
  }
  for (const std::vector<std::string>& refused :
       {std::vector<std::string>{"--device", "auto"},
        {"--device", "cuda", "--precision", "reference"}}) {
    const Finished run = with(decode, refused);
    EXPECT_EQ(run.exit_code, kUsage) << run.err;
    EXPECT_THAT(run.err, HasSubstr("--operations"));
  }
  const Finished offload = program.run({"bench", "offload", kNano, "--operations"});
  EXPECT_EQ(offload.exit_code, kUsage) << offload.err;
  EXPECT_THAT(offload.err, HasSubstr("--operations"));
  EXPECT_EQ(
      Program(false).run({"bench", "decode", kNano, "--operations", "--device", "cuda"}).exit_code,
      kDevice);
}

TEST(Device, AFaultEndsEveryCommandWithItsMessageAndFive) {
  const Program program(true);
  const FailAt fault(900);
  write_file(program.file("ids"), "[4075, 4077, 17, 18]");
  const std::vector<std::pair<std::vector<std::string>, std::string>> commands = {
      {generate("cuda", 100), ""},
      {{"chat", kNano, "--device", "cuda", "--max-tokens", "100"}, "Goodbye!\nAgain\n"},
      {{"eval", kNano, longshore::source_dir() + "/tests/data/eval/tasks-public.jsonl", "--device",
        "cuda"},
       ""},
      {{"bench", "decode", kNano, "--device", "cuda", "--context", "16"}, ""}};
  for (const auto& [arguments, input] : commands) {
    const Finished run = program.run(arguments, input);
    EXPECT_EQ(run.exit_code, kDevice) << arguments[0] << run.err;
    EXPECT_EQ(lines_of(run.err).size(), 1U) << arguments[0] << run.err;
    EXPECT_THAT(run.err, HasSubstr("told to fail")) << arguments[0];
  }
}

uint16_t free_port() {
  const int descriptor = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  LS_CHECK(bind(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  socklen_t size = sizeof address;
  LS_CHECK(getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  close(descriptor);
  return ntohs(address.sin_port);
}

// Sends the request once somebody listens; all that comes back until the end of the connection.
std::string ask(uint16_t port, const std::string& request) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  for (int attempt = 0; attempt < 600; ++attempt) {
    const int descriptor = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      close(descriptor);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      continue;
    }
    LS_CHECK(send(descriptor, request.data(), request.size(), 0) ==
             static_cast<ssize_t>(request.size()));
    std::string reply;
    char piece[4096];
    for (ssize_t got = 0; (got = recv(descriptor, piece, sizeof piece, 0)) > 0;)
      reply.append(piece, static_cast<size_t>(got));
    close(descriptor);
    return reply;
  }
  return "nobody listens";
}

TEST(Device, AFaultAnswersRunningRequestsAndEndsTheServerWithFive) {
  const Program program(true);
  const FailAt fault(900);
  const uint16_t port = free_port();
  Finished finished;
  std::thread server([&] {
    finished = program.run(
        {"serve", kNano, "--device", "cuda", "--port", std::to_string(port), "--log-level", "off"});
  });
  const std::string body =
      R"({"model": "glm-nano", "messages": [{"role": "user", "content": "Count."}], )"
      R"("ignore_eos": true, "max_tokens": 2000})";
  const std::string reply =
      ask(port,
          "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
          "Content-Type: application/json\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  server.join();
  EXPECT_THAT(reply, HasSubstr("HTTP/1.1 500"));
  EXPECT_THAT(reply, HasSubstr("told to fail"));
  EXPECT_EQ(finished.exit_code, kDevice) << finished.err;
  EXPECT_THAT(finished.err, HasSubstr("told to fail"));
}

}  // namespace
}  // namespace longshore
