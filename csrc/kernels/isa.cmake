# Compiles kernel sources once per instruction set.
#
#   slipstream_isa_sources(TARGET source.cpp …)
#
# adds to TARGET, for each set this build knows, one object of every source, with the set's flags
# and the macro that chooses its namespace (isa/vec.h). On processors of other families only
# `portable` is built. TARGET sees SLIPSTREAM_X86 or SLIPSTREAM_ARM when the faster sets are there.

set(SLIPSTREAM_CSRC "${CMAKE_CURRENT_LIST_DIR}/.." CACHE INTERNAL "root of the C++ sources")
# No contraction: an fma is where the source says fma, so that every set gives the same bits.
# No signed zeros or NaN are assumed away, and nothing may trap or set errno that we look at.
set(SLIPSTREAM_FLAGS -ffp-contract=off -fno-math-errno -fno-trapping-math
    CACHE INTERNAL "flags of every C++ source")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(SLIPSTREAM_X86 ON CACHE INTERNAL "the x86-64 sets are built")
  set(SLIPSTREAM_ISAS portable avx2 avx512 amx CACHE INTERNAL "sets that are built")
  set(SLIPSTREAM_ARM OFF CACHE INTERNAL "the sets of 64-bit ARM are built")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|ARM64|arm64)$")
  set(SLIPSTREAM_X86 OFF CACHE INTERNAL "the x86-64 sets are built")
  set(SLIPSTREAM_ARM ON CACHE INTERNAL "the sets of 64-bit ARM are built")
  set(SLIPSTREAM_ISAS portable neon i8mm CACHE INTERNAL "sets that are built")
else()
  set(SLIPSTREAM_ARM OFF CACHE INTERNAL "the sets of 64-bit ARM are built")
  set(SLIPSTREAM_X86 OFF CACHE INTERNAL "the x86-64 sets are built")
  set(SLIPSTREAM_ISAS portable CACHE INTERNAL "sets that are built")
endif()

set(SLIPSTREAM_FLAGS_avx2 -mavx2 -mfma -mf16c CACHE INTERNAL "")
if(SLIPSTREAM_SANITIZE)
  set(SLIPSTREAM_FLAGS_portable CACHE INTERNAL "")
  set(SLIPSTREAM_FLAGS_emulated ${SLIPSTREAM_FLAGS_avx2} -Wno-psabi CACHE INTERNAL "")
else()  # more takes minutes, and gains nothing that plain lanes or tests need
  set(SLIPSTREAM_FLAGS_portable $<$<CONFIG:Release>:-O2> CACHE INTERNAL "")
  set(SLIPSTREAM_FLAGS_emulated ${SLIPSTREAM_FLAGS_avx2} -O1 -Wno-psabi CACHE INTERNAL "")
endif()
set(SLIPSTREAM_FLAGS_avx512 -Wno-uninitialized -Wno-maybe-uninitialized  # false alarms of g++ 12
    -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
    CACHE INTERNAL "")
set(SLIPSTREAM_FLAGS_neon -march=armv8.2-a+dotprod CACHE INTERNAL "")
set(SLIPSTREAM_FLAGS_i8mm -march=armv8.2-a+dotprod+i8mm CACHE INTERNAL "")
set(SLIPSTREAM_FLAGS_amx ${SLIPSTREAM_FLAGS_avx512} -mamx-tile -mamx-int8 -mamx-bf16 CACHE INTERNAL "")

function(slipstream_isa_sources target)
  foreach(isa IN LISTS SLIPSTREAM_ISAS)
    set(objects "${target}_${isa}")
    string(TOUPPER "${isa}" upper)
    add_library(${objects} OBJECT ${ARGN})
    target_include_directories(${objects} PRIVATE "${SLIPSTREAM_CSRC}")
    target_compile_features(${objects} PRIVATE cxx_std_17)
    target_compile_definitions(${objects} PRIVATE "SLIPSTREAM_ISA_${upper}")
    target_compile_options(${objects} PRIVATE ${SLIPSTREAM_FLAGS} ${SLIPSTREAM_FLAGS_${isa}})
    set_target_properties(${objects} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    foreach(family X86 ARM)
      if(SLIPSTREAM_${family})
        target_compile_definitions(${objects} PRIVATE SLIPSTREAM_${family})
      endif()
    endforeach()
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  endforeach()
  foreach(family X86 ARM)
    if(SLIPSTREAM_${family})
      target_compile_definitions(${target} PUBLIC SLIPSTREAM_${family})
    endif()
  endforeach()
endfunction()
