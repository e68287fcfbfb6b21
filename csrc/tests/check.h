// A test in plain C++: CHECK(condition, format, …) prints and counts failures; report() is main's
// result. No framework.
#pragma once

#include <cstdio>

namespace slipstream::test {

inline int checks = 0;
inline int failures = 0;

inline int report(const char* name) {
  std::printf("%s: %d checks, %d failures\n", name, checks, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace slipstream::test

#define CHECK(condition, ...)                                              \
  do {                                                                     \
    ++::slipstream::test::checks;                                          \
    if (!(condition) && ++::slipstream::test::failures <= 20) {            \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fputc('\n', stderr);                                            \
    }                                                                      \
  } while (false)
