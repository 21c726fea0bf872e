#include "base/error.h"

#include "base/check.h"

namespace longshore {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kModel:
      return 3;
    case ErrorKind::kMemory:
      return 4;
    case ErrorKind::kDevice:
      return 5;
    case ErrorKind::kCancelled:
      return 130;
    case ErrorKind::kIo:
    case ErrorKind::kBusy:
      return 1;
  }
  LS_FAIL("unknown error kind {}", static_cast<int>(kind));
}

}  // namespace longshore
