#include "tests/server/client.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

namespace longshore::server {
namespace {

using Clock = std::chrono::steady_clock;

double left(Clock::time_point until) {
  return std::chrono::duration<double>(until - Clock::now()).count();
}

Clock::time_point after(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return text;
}

// Takes a chunked body off the front of the buffer; false: more must come.
bool take_chunks(std::string& buffer, std::string& body) {
  size_t at = 0;
  std::string joined;
  while (true) {
    const size_t line = buffer.find("\r\n", at);
    if (line == std::string::npos) return false;
    size_t size = 0;
    std::from_chars(buffer.data() + at, buffer.data() + line, size, 16);
    if (buffer.size() < line + 2 + size + 2) return false;
    joined += buffer.substr(line + 2, size);
    at = line + 2 + size + 2;
    if (size == 0) break;
  }
  buffer.erase(0, at);
  body = joined;
  return true;
}

}  // namespace

std::string Reply::header(const std::string& name) const {
  const size_t at = lower(head).find("\r\n" + name + ": ");
  if (at == std::string::npos) return "";
  const size_t begin = at + 2 + name.size() + 2;
  return head.substr(begin, head.find("\r\n", begin) - begin);
}

Client::Client(uint16_t port, int receive_buffer) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
  if (receive_buffer > 0)
    (void)setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ended_ = ::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0;
}

Client::~Client() {
  close();
}

void Client::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void Client::reset() {
  const linger at_once{1, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  close();
}

void Client::shut_write() {
  ::shutdown(fd_, SHUT_WR);
}

void Client::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;  // the server has closed; what it said before can still be read
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

bool Client::read_some(double seconds) {
  pollfd state{fd_, POLLIN, 0};
  if (ended_ || seconds <= 0 ||
      ::poll(&state, 1, std::max(1, static_cast<int>(seconds * 1e3))) <= 0)
    return false;
  std::array<char, 65536> piece;
  const ssize_t got = ::recv(fd_, piece.data(), piece.size(), 0);
  ended_ = got <= 0;
  if (got > 0) buffer_.append(piece.data(), static_cast<size_t>(got));
  return !ended_;
}

bool Client::wait_for(std::string_view marker, double seconds) {
  const auto until = after(seconds);
  while (buffer_.find(marker) == std::string::npos) {
    if (!read_some(left(until))) return false;
  }
  return true;
}

bool Client::closed(double seconds) {
  const auto until = after(seconds);
  while (read_some(left(until))) {
  }
  return ended_;
}

Reply Client::reply(double seconds, bool to_head) {
  const auto until = after(seconds);
  Reply reply;
  if (!wait_for("\r\n\r\n", seconds)) return reply;
  const size_t end = buffer_.find("\r\n\r\n") + 4;
  reply.head = buffer_.substr(0, end);
  buffer_.erase(0, end);
  reply.status = std::stoi(reply.head.substr(9, 3));
  if (reply.status < 200) {
    ++interim_;
    return this->reply(left(until), to_head);
  }
  if (to_head || reply.status == 204 || reply.status == 304) {
    reply.complete = true;
  } else if (reply.header("transfer-encoding") == "chunked") {
    while (!(reply.complete = take_chunks(buffer_, reply.body)) && read_some(left(until))) {
    }
    if (!reply.complete) reply.body = buffer_;
  } else if (const std::string length = reply.header("content-length"); !length.empty()) {
    const size_t size = std::stoul(length);
    while (buffer_.size() < size && read_some(left(until))) {
    }
    reply.complete = buffer_.size() >= size;
    reply.body = buffer_.substr(0, size);
    buffer_.erase(0, size);
  } else {
    while (read_some(left(until))) {
    }
    reply.complete = ended_;
    reply.body = std::move(buffer_);
    buffer_.clear();
  }
  return reply;
}

std::string post(const std::string& path, const std::string& body, const std::string& headers) {
  return "POST " + path + " HTTP/1.1\r\nHost: test\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

std::string get(const std::string& path, const std::string& headers) {
  return "GET " + path + " HTTP/1.1\r\nHost: test\r\n" + headers + "\r\n";
}

}  // namespace longshore::server
