// A raw HTTP client over a loopback socket, which can misbehave on purpose.
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace longshore::server {

struct Reply {
  int status = 0;  // 0: the connection ended without an answer
  std::string head;
  std::string body;  // chunks joined
  bool complete = false;
  [[nodiscard]] std::string header(const std::string& name) const;  // name in lower case
};

class Client {
 public:
  // receive_buffer: bytes of the socket's, 0: the system's choice.
  explicit Client(uint16_t port, int receive_buffer = 0);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void send(std::string_view bytes);
  void shut_write();
  void close();
  // Ends the connection in both directions at once.
  void reset();
  // Reads until the marker has come (it stays in the buffer), the connection ends, or the time is
  // over; false unless it came.
  bool wait_for(std::string_view marker, double seconds = 20);
  // The next whole answer; interim ones (1xx) are skipped.
  Reply reply(double seconds = 60, bool to_head = false);
  // True: the server closed the connection.
  bool closed(double seconds = 10);
  [[nodiscard]] const std::string& buffer() const { return buffer_; }
  [[nodiscard]] int interim_answers() const { return interim_; }

 private:
  bool read_some(double seconds);

  int fd_ = -1;
  bool ended_ = false;
  int interim_ = 0;
  std::string buffer_;
};

// "POST path" with this body; headers: whole lines with their \r\n.
[[nodiscard]] std::string post(const std::string& path, const std::string& body,
                               const std::string& headers = "");
[[nodiscard]] std::string get(const std::string& path, const std::string& headers = "");

}  // namespace longshore::server
