// The parts of the Python module `slipstream._native`.
#pragma once

#include <nanobind/nanobind.h>

namespace slipstream {

class ProgramBuilder;

void bind_builder(nanobind::module_& module);                 // bind_builder.cpp
void bind_packed(nanobind::class_<ProgramBuilder>& builder);  // bind_packed.cpp
void bind_program(nanobind::module_& module);                 // bind_program.cpp
void bind_sampler(nanobind::module_& module);                 // bind_sampler.cpp
void bind_spans(nanobind::module_& module);                   // bind_spans.cpp

class Program;
void bind_adapters(nanobind::class_<Program>& program);  // bind_adapters.cpp

}  // namespace slipstream

void bind_probe(nanobind::module_& module);  // probe.cpp
