# -DSLIPSTREAM_SANITIZE=address,undefined builds everything instrumented; the first fault ends a test.
# Nothing is optimized or unrolled: over the kernels as they ship `undefined` takes g++ an hour, and
# without optimization all instruction sets together take minutes.
set(SLIPSTREAM_SANITIZE "" CACHE STRING "Sanitizers to build with, separated by commas")
if(SLIPSTREAM_SANITIZE)
  set(CMAKE_CXX_FLAGS_RELEASE -O0)
  add_compile_definitions(SLIPSTREAM_CHECKED)
  add_compile_options(
    -fsanitize=${SLIPSTREAM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${SLIPSTREAM_SANITIZE})
endif()
