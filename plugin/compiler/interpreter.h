#ifndef FLASHATTN_COMPILER_INTERPRETER_H_
#define FLASHATTN_COMPILER_INTERPRETER_H_

#include <string>

namespace flashattn {

// Path of the Python interpreter in whose environment the package is installed. False, with a
// sentence that names the path that was looked for, if it is gone.
bool findInterpreter(std::string &path, std::string &error);

}  // namespace flashattn

#endif  // FLASHATTN_COMPILER_INTERPRETER_H_
