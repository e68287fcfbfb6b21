# Tests of the linear kernels, and their micro-benchmark. AVX-512 and AMX are also compiled over
# emulated instructions (AVX2 does the halves), so that their logic is tested where they cannot run.

find_package(Threads REQUIRED)

add_library(slipstream_linear_test INTERFACE)
target_link_libraries(slipstream_linear_test INTERFACE slipstream_linear Threads::Threads)
if(SLIPSTREAM_X86)
  foreach(isa avx512 amx)
    string(TOUPPER "${isa}" upper)
    add_library(slipstream_linear_emulated_${isa} STATIC
      "${SLIPSTREAM_CSRC}/kernels/linear_isa.cpp" "${SLIPSTREAM_CSRC}/tests/vec_probe.cpp")
    target_include_directories(slipstream_linear_emulated_${isa} PRIVATE "${SLIPSTREAM_CSRC}")
    target_compile_features(slipstream_linear_emulated_${isa} PRIVATE cxx_std_17)
    target_compile_definitions(slipstream_linear_emulated_${isa} PRIVATE
      SLIPSTREAM_X86 SLIPSTREAM_EMULATED SLIPSTREAM_CHECKED "SLIPSTREAM_ISA_${upper}")
    target_compile_options(slipstream_linear_emulated_${isa} PRIVATE
      ${SLIPSTREAM_FLAGS} ${SLIPSTREAM_FLAGS_emulated})
    target_link_libraries(slipstream_linear_test INTERFACE slipstream_linear_emulated_${isa})
  endforeach()
  target_compile_definitions(slipstream_linear_test INTERFACE SLIPSTREAM_TEST_EMULATED)
endif()

# test_vec compares the vector interface itself, so it is compiled per set too.
add_library(slipstream_vec_probe STATIC)
slipstream_isa_sources(slipstream_vec_probe "${SLIPSTREAM_CSRC}/tests/vec_probe.cpp")
target_link_libraries(slipstream_linear_test INTERFACE slipstream_vec_probe)

foreach(name test_vec test_linear test_linear_edges test_linear_bfloat)
  add_executable(${name} "${SLIPSTREAM_CSRC}/tests/${name}.cpp")
  target_link_libraries(${name} PRIVATE slipstream_linear_test)
  target_compile_options(${name} PRIVATE ${SLIPSTREAM_FLAGS})
  add_test(NAME ${name} COMMAND ${name})
endforeach()

if(NOT SLIPSTREAM_SANITIZE)  # nothing is timed under sanitizers
  add_executable(bench_linear "${SLIPSTREAM_CSRC}/bench/bench_linear.cpp")
  target_link_libraries(bench_linear PRIVATE slipstream_linear Threads::Threads)
endif()
