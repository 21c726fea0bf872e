#include "cli/standard_input.h"

#include <cerrno>
#include <cstring>
#include <iostream>

#include <poll.h>
#include <unistd.h>

#include "cli/options.h"

namespace longshore::cli {
namespace {

constexpr size_t kPiece = size_t{1} << 16;

struct Input {
  std::string piece;
  size_t used = 0;
};

Input& input() {
  static Input state;
  return state;
}

Error stopped() {
  return {ErrorKind::kCancelled, "stopped while reading standard input"};
}

Error unreadable() {
  return {ErrorKind::kIo, fmt::format("standard input: cannot read it: {}", std::strerror(errno))};
}

// Until there is something to read, the input's end included, or an interrupt.
Result<void> wait_for_input() {
  pollfd waited[] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_descriptor(), POLLIN, 0}};
  while (!interrupt_token().cancelled()) {
    if (poll(waited, 2, -1) >= 0) {
      if (waited[0].revents != 0) return {};
    } else if (errno != EINTR) {
      return tl::unexpected<Error>(unreadable());
    }
  }
  return tl::unexpected<Error>(stopped());
}

// False at the end.
Result<bool> refill(Input& state) {
  state.piece.resize(kPiece);
  state.used = 0;
  ssize_t got = -1;
  do {
    LS_TRY_VOID(wait_for_input());
    got = read(STDIN_FILENO, state.piece.data(), kPiece);
  } while (got < 0 && errno == EINTR);
  const int fault = errno;
  state.piece.resize(got > 0 ? static_cast<size_t>(got) : 0);
  errno = fault;
  if (got < 0) return tl::unexpected<Error>(unreadable());
  return got > 0;
}

}  // namespace

Result<std::string> read_standard_input() {
  Input& state = input();
  std::string text = state.piece.substr(state.used);
  while (true) {
    LS_TRY(const bool more, refill(state));
    if (!more) return text;
    text += state.piece;
    state.used = state.piece.size();
    if (static_cast<int64_t>(text.size()) <= kMaxInputBytes) continue;
    return fail(ErrorKind::kUsage, "standard input: more than {} MiB: split it",
                kMaxInputBytes >> 20);
  }
}

Result<bool> next_line(std::string& line) {
  Input& state = input();
  line.clear();
  while (true) {
    if (interrupt_token().cancelled()) return tl::unexpected<Error>(stopped());
    if (!std::cout) return fail(ErrorKind::kIo, "standard output: cannot write it");
    const size_t end = state.piece.find('\n', state.used);
    line.append(state.piece, state.used, end - state.used);
    if (static_cast<int64_t>(line.size()) > kMaxInputBytes) {
      return fail(ErrorKind::kUsage, "standard input: a line of more than {} MiB: split it",
                  kMaxInputBytes >> 20);
    }
    if (end != std::string::npos) {
      state.used = end + 1;
      return true;
    }
    LS_TRY(const bool more, refill(state));
    if (!more) return !line.empty();
  }
}

}  // namespace longshore::cli
