// Standard input that an interrupt can end: a plain read() that begins just after the signal would
// wait for ever.
//
// Threading: one thread reads.
#pragma once

#include <string>

#include "base/error.h"

namespace longshore::cli {

// All of it. Errors: kUsage (more than kMaxInputBytes), kCancelled (the user stopped it), kIo.
Result<std::string> read_standard_input();

// The next line without its end; false at the end of the input. Errors as above, per line; kIo also
// when standard output cannot be written any more: nobody reads the answers.
Result<bool> next_line(std::string& line);

}  // namespace longshore::cli
