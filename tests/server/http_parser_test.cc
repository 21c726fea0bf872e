#include "server/http_parser.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace longshore::server {
namespace {

using State = RequestParser::State;

constexpr const char* kPost =
    "POST /v1/x%2Fy?q=1 HTTP/1.1\r\nHost: a\r\nX-Thing:  value \r\nContent-Length: 5\r\n\r\nhello";
constexpr const char* kChunked =
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
    "chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";

// Feeds in pieces, as a connection does: what was not taken comes again with more behind it.
void feed(RequestParser& parser, const std::string& bytes, size_t piece) {
  std::string inbound;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    inbound += bytes.substr(at, piece);
    inbound.erase(0, parser.feed(inbound));
  }
}

int status_of(const std::string& bytes, const ParserLimits& limits = {}) {
  RequestParser parser(limits);
  feed(parser, bytes, 4096);
  return parser.state() == State::kFailed ? parser.error().status : 0;
}

TEST(RequestParser, ReadsTheSameHoweverTheBytesAreSplit) {
  for (const std::string bytes : {kPost, kChunked}) {
    for (size_t piece = 1; piece <= bytes.size(); ++piece) {
      RequestParser parser({});
      feed(parser, bytes, piece);
      ASSERT_EQ(parser.state(), State::kDone) << bytes << piece;
      EXPECT_EQ(parser.request().body, "hello");
      EXPECT_EQ(parser.request().method, "POST");
    }
  }
}

TEST(RequestParser, GivesPathHeadersAndVersion) {
  RequestParser parser({});
  parser.feed(kPost);
  const HttpRequest& request = parser.request();
  EXPECT_EQ(request.target, "/v1/x%2Fy?q=1");
  EXPECT_EQ(request.path, "/v1/x/y");
  EXPECT_EQ(request.header("x-THING"), "value");
  EXPECT_EQ(request.version, 11);
  EXPECT_TRUE(request.keep_alive);
  RequestParser old({});
  old.feed("GET / HTTP/1.0\r\n\r\n");
  ASSERT_EQ(old.state(), State::kDone);
  EXPECT_FALSE(old.request().keep_alive);
}

TEST(RequestParser, LeavesTheNextRequest) {
  const std::string two = std::string("\r\n") + kPost + "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
  RequestParser first({});
  const size_t taken = first.feed(two);
  ASSERT_EQ(first.state(), State::kDone);
  EXPECT_EQ(two.substr(taken, 9), "GET /next");
}

TEST(RequestParser, KnowsWhoWaitsForContinue) {
  RequestParser parser({});
  parser.feed("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n");
  EXPECT_EQ(parser.state(), State::kBody);
  EXPECT_TRUE(parser.expects_continue());
}

TEST(RequestParser, RefusesLongHeadersAndBodies) {
  const ParserLimits limits{.header_bytes = 1000, .body_bytes = 100};
  const std::string head = "POST / HTTP/1.1\r\nHost: a\r\n";
  EXPECT_EQ(status_of(head + "X: " + std::string(100'000, 'x'), limits), 431);
  EXPECT_EQ(status_of("GET /" + std::string(100'000, 'x'), limits), 431);
  EXPECT_EQ(status_of(head + "Content-Length: 101\r\n\r\n", limits), 413);
  EXPECT_EQ(status_of(head + "Content-Length: 100\r\n\r\n", limits), 0);
  EXPECT_EQ(
      status_of(head + "Transfer-Encoding: chunked\r\n\r\n65\r\n" + std::string(101, 'x') + "\r\n",
                limits),
      413);
}

TEST(RequestParser, RefusesWhatIsNotHttp) {
  const std::vector<std::string> bad = {
      "\x16\x03\x01\x02\x01",                                      // TLS
      "hello\n",                                                   //
      "GET / HTTP/1.1\nHost: a\n\n",                               // bare newlines
      "GET /\r\n\r\n",                                             // HTTP/0.9
      "GET / HTTP/1.1\r\nHost : a\r\n\r\n",                        // space before the colon
      "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",                    // no colon
      "GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n",              // control character
      "GET / HTTP/1.1\r\n\r\n",                                    // no Host
      "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",              // two
      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",  //
      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5x\r\n\r\n",  //
      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
      std::string("GET / HTTP/1.1\r\nHost: a\r\nX: a") + '\0' + "b\r\n\r\n",
  };
  for (const std::string& bytes : bad) EXPECT_EQ(status_of(bytes), 400) << bytes;
}

TEST(RequestParser, TakesTheAbsoluteFormOfATarget) {
  for (const auto& [target, path] :
       std::vector<std::pair<std::string, std::string>>{{"http://a/v1/x%2Fy?q=1", "/v1/x/y"},
                                                        {"HTTPS://a:80/health", "/health"},
                                                        {"http://a", "/"},
                                                        {"http://a?q=/x", "/"},
                                                        {"/http://a", "/http://a"}}) {
    RequestParser parser({});
    parser.feed("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n");
    ASSERT_EQ(parser.state(), State::kDone) << target;
    EXPECT_EQ(parser.request().path, path) << target;
  }
}

TEST(RequestParser, RefusesCompressedBodies) {
  const std::string head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Encoding: ";
  EXPECT_EQ(status_of(head + "gzip\r\n\r\nhello"), 415);
  EXPECT_EQ(status_of(head + "Identity\r\n\r\nhello"), 0);
}

TEST(RequestParser, RefusesAnEndlessChunkExtensionAtOnce) {
  const std::string head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  EXPECT_EQ(status_of(head + "3;x=" + std::string(20'000, 'x')), 400);
  EXPECT_EQ(status_of(head + "3;x=" + std::string(1'000, 'x') + "\r\nhel\r\n0\r\n\r\n"), 0);
  EXPECT_EQ(status_of(head + "8000\r\n" + std::string(20'000, 'x')), 0) << "a body in its midst";
}

TEST(RequestParser, NamesWhatItDoesNotSpeak) {
  EXPECT_EQ(status_of("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
  EXPECT_EQ(status_of("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"), 501);
}

}  // namespace
}  // namespace longshore::server
