// `longshore serve` as a command: flags, greeting, end. What it serves is tested in tests/server
// and tests/clients.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/cli/process.h"
#include "tests/paths.h"

namespace longshore {
namespace {

using testing::HasSubstr;

const std::string kNano = longshore::source_dir() + "/models/glm-nano";

TEST(Serve, GreetsWithAnAddressAndACurlLineAndEndsCleanlyOnInterrupt) {
  const Finished finished = longshore({"serve", kNano, "--port", "0"}, "", 0, "", "curl ");
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out, HasSubstr("longshore serves glm-nano on http://127.0.0.1:"));
  EXPECT_THAT(finished.out, HasSubstr("\ncurl http://127.0.0.1:"));
  EXPECT_THAT(finished.err, HasSubstr("stopped after 0 requests"));
}

TEST(Serve, TakesTheFlagsOfOtherServersScripts) {
  const Finished finished = longshore({"serve",
                                       "--model-path",
                                       kNano,
                                       "--served-model-name",
                                       "glm-5.1",
                                       "--host",
                                       "localhost",
                                       "--port",
                                       "0",
                                       "--refuse-other-models",
                                       "--enable-metrics",
                                       "--enable-cache-report",
                                       "--disable-radix-cache",
                                       "--max-running-requests",
                                       "4",
                                       "--max-queued-requests",
                                       "8",
                                       "--prefill-pause-share",
                                       "0.5",
                                       "--chunked-prefill-size",
                                       "64",
                                       "--api-key",
                                       "secret",
                                       "--log-level",
                                       "off"},
                                      "", 0, "", "curl ");
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out, HasSubstr("longshore serves glm-5.1 on http://localhost:"));
  EXPECT_THAT(finished.out, HasSubstr("$LONGSHORE_API_KEY"));
  EXPECT_THAT(finished.out, testing::Not(HasSubstr("secret")));
  EXPECT_EQ(finished.err, "");
}

TEST(Serve, RefusesBadFlagsByName) {
  const std::vector<std::vector<std::string>> bad = {
      {"--port", "70000"},
      {"--port", "x"},
      {"--log-level", "loud"},
      {"--max-running-requests", "0"},
      {"--max-queued-requests", "-2"},
      {"--prefill-pause-share", "-0.5"},
      {"--prefill-pause-share", "nan"},
      {"--http-threads", "0"},
      {"--max-body-mib", "nan"},
      {"--request-timeout", "-1"},
      {"--drain-seconds", "-1"},
      {"--host", "no.such.host.invalid"},
  };
  for (const auto& flag : bad) {
    const Finished finished = longshore({"serve", kNano, flag[0], flag[1]});
    EXPECT_EQ(finished.exit_code, 2) << flag[0];
    EXPECT_THAT(finished.err, HasSubstr(flag[0]));
    EXPECT_EQ(lines_of(finished.err).size(), 1U) << finished.err;
  }
  EXPECT_EQ(longshore({"serve", "/nowhere"}).exit_code, 3);
  EXPECT_EQ(longshore({"serve"}).exit_code, 2);
}

TEST(Serve, SaysThatThePortIsTaken) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(fd, 1), 0);
  ASSERT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  const Finished finished = longshore({"serve", kNano, "--port", port});
  ::close(fd);
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_THAT(finished.err, HasSubstr("--port " + port));
}

}  // namespace
}  // namespace longshore
