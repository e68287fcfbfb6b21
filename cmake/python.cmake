# Finds Python and nanobind: those of the build front end, of an active virtual environment, or of
# the .venv that `make` creates beside this file's parent.
set(Python_FIND_VIRTUALENV FIRST)
set(local_python ${CMAKE_CURRENT_SOURCE_DIR}/.venv/bin/python)
if(NOT SKBUILD AND NOT Python_EXECUTABLE AND NOT DEFINED ENV{VIRTUAL_ENV} AND EXISTS ${local_python})
  set(Python_EXECUTABLE ${local_python})
endif()
find_package(Python 3.11 COMPONENTS Interpreter Development.Module REQUIRED)

if(NOT nanobind_DIR)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -m nanobind --cmake_dir
    OUTPUT_STRIP_TRAILING_WHITESPACE OUTPUT_VARIABLE nanobind_DIR
    RESULT_VARIABLE nanobind_missing)
  if(nanobind_missing)
    message(FATAL_ERROR "nanobind is missing: ${Python_EXECUTABLE} -m pip install nanobind")
  endif()
endif()
find_package(nanobind CONFIG REQUIRED)
