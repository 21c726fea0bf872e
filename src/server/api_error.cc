#include "server/api_error.h"

namespace longshore::server {
namespace {

int status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return 400;
    case ErrorKind::kBusy:
      return 429;
    case ErrorKind::kMemory:
    case ErrorKind::kCancelled:
      return 503;
    case ErrorKind::kModel:
    case ErrorKind::kDevice:
    case ErrorKind::kIo:
      return 500;
  }
  return 500;
}

}  // namespace

ApiError api_error(const Error& error) {
  return {.status = status_of(error.kind), .message = error.message, .param = {}, .code = {}};
}

}  // namespace longshore::server
