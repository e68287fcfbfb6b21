// The smallest test framework: a claim that fails says where, and the program fails at its end.
#pragma once

#include <cstdio>

inline int failed_claims = 0;

#define CLAIM(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      ++failed_claims;                                                             \
    }                                                                              \
  } while (false)
