# How folders, programs and tests are found.  A new file is picked up by itself; a new folder is one line in CMakeLists.txt.

# hm_folder(name "folders it may include" libraries...): src/<name>/**.c becomes the static library hm_<name>.
function(hm_folder name folders)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.c ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  foreach(folder IN LISTS HM_MODULE_FOLDERS)
    list(FILTER sources EXCLUDE REGEX "/src/${folder}/")
  endforeach()
  if(sources)
    add_library(hm_${name} STATIC ${sources})
    set(scope PUBLIC)
  else()
    add_library(hm_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(hm_${name} ${scope} ${CMAKE_SOURCE_DIR}/src)
  foreach(folder IN LISTS folders)
    target_link_libraries(hm_${name} ${scope} hm_${folder})
  endforeach()
  if(ARGN)
    target_link_libraries(hm_${name} ${scope} ${ARGN})
  endif()
endfunction()

# HM_BUILD_ID: the version, the commit, and a hash of compiler, flags and headers.  A module of another build is refused,
# since it would see other structs.  Only the files that need it are compiled with it.
function(hm_build_id)
  execute_process(COMMAND git describe --always --dirty WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  file(GLOB_RECURSE headers ${CMAKE_SOURCE_DIR}/src/*.h)
  set(text "${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION} ${CMAKE_BUILD_TYPE} ${CMAKE_C_FLAGS} ${HM_SANITIZE}")
  foreach(header IN LISTS headers)
    file(SHA256 ${header} digest)
    string(APPEND text " ${digest}")
  endforeach()
  string(SHA256 digest "${text}")
  string(SUBSTRING "${digest}" 0 8 digest)
  set(HM_BUILD_ID "${PROJECT_VERSION}-${commit}-${digest}" PARENT_SCOPE)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/base/module.c ${CMAKE_SOURCE_DIR}/src/base/module/stub.c
    PROPERTIES COMPILE_DEFINITIONS "HM_BUILD_ID=\"${PROJECT_VERSION}-${commit}-${digest}\"")
endfunction()

# hm_module(name folder libraries...): src/<folder>/*.c and the stubs become lib/hivemind/<name>.so (base/module.h).
function(hm_module name folder)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${folder}/*.c)
  add_library(hm_module_${name} MODULE ${sources} ${CMAKE_SOURCE_DIR}/src/base/module/stub.c)
  set_target_properties(hm_module_${name} PROPERTIES PREFIX "" OUTPUT_NAME ${name} C_VISIBILITY_PRESET hidden
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/hivemind)
  target_include_directories(hm_module_${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  target_link_options(hm_module_${name} PRIVATE -Wl,-Bsymbolic)
  if(NOT HM_SANITIZE)
    target_link_options(hm_module_${name} PRIVATE -Wl,--no-undefined)
  endif()
  target_link_libraries(hm_module_${name} PRIVATE ${ARGN})
  set_property(GLOBAL APPEND PROPERTY HM_MODULES hm_module_${name})
endfunction()

# tests/modules/*.c: small modules for the tests of the loader, in lib/modules-for-tests: good.so, of another build,
# without the entry, and one that needs a library which is gone.
function(hm_test_modules)
  set(into ${CMAKE_BINARY_DIR}/lib/modules-for-tests)
  set(stub ${CMAKE_SOURCE_DIR}/src/base/module/stub.c)
  add_library(hm_test_gone SHARED ${CMAKE_SOURCE_DIR}/tests/modules/gone.c)
  foreach(name good stale hollow orphan)
    add_library(hm_test_${name} MODULE ${CMAKE_SOURCE_DIR}/tests/modules/${name}.c)
    set_target_properties(hm_test_${name} PROPERTIES PREFIX "" OUTPUT_NAME ${name} C_VISIBILITY_PRESET hidden
      LIBRARY_OUTPUT_DIRECTORY ${into})
    target_include_directories(hm_test_${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  endforeach()
  target_sources(hm_test_good PRIVATE ${stub})
  # The library is linked under a name that no file has.
  set_target_properties(hm_test_gone PROPERTIES OUTPUT_NAME hm-gone-for-good NO_SONAME ON
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib/modules-for-tests/link)
  target_link_options(hm_test_gone PRIVATE -Wl,-soname,libhm-gone.so.7)
  target_link_options(hm_test_orphan PRIVATE -Wl,--no-as-needed)
  target_link_libraries(hm_test_orphan PRIVATE hm_test_gone)
endfunction()

# The one program: src/cli/*.c; its modules are built with it.
function(hm_program)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cli/*.c)
  if(sources)
    add_executable(hivemind ${sources})
    target_link_libraries(hivemind PRIVATE hm_api hm_sim)
    get_property(modules GLOBAL PROPERTY HM_MODULES)
    if(modules)
      add_dependencies(hivemind ${modules})
    endif()
  endif()
endfunction()

# perf/*.c: independent raw programs, one file each; they use libraries, never our layers.
function(hm_perf_programs)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/perf/*.c)
  add_custom_target(perf)
  foreach(source IN LISTS sources)
    get_filename_component(stem ${source} NAME_WE)
    add_executable(perf-${stem} ${source})
    add_dependencies(perf perf-${stem})
    target_link_libraries(perf-${stem} PRIVATE PkgConfig::OPENSSL DNNL::dnnl Threads::Threads m)
  endforeach()
endfunction()

# examples/*.c: they see the public header only.
function(hm_examples)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/examples/*.c)
  add_custom_target(examples)
  foreach(source IN LISTS sources)
    get_filename_component(stem ${source} NAME_WE)
    add_executable(example-${stem} ${source})
    add_dependencies(examples example-${stem})
    target_link_libraries(example-${stem} PRIVATE hm_api)
  endforeach()
endfunction()

# tests/<suite>/<folder>/test_*.c, one program each, linked with hm_<folder> and what that may include (folder "all":
# everything).  tests/support is shared.
function(hm_test_suite suite)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${suite}/*/test_*.c)
  file(GLOB support CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/support/*.c)
  foreach(source IN LISTS sources)
    get_filename_component(stem ${source} NAME_WE)
    get_filename_component(directory ${source} DIRECTORY)
    get_filename_component(folder ${directory} NAME)
    string(REPLACE "test_" "" stem ${stem})
    set(target ${suite}-${folder}-${stem})
    file(GLOB helpers CONFIGURE_DEPENDS ${directory}/support_*.c)
    add_executable(${target} ${source} ${helpers} ${support})
    target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/tests/support ${directory})
    target_compile_definitions(${target} PRIVATE HM_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
      HM_TEST_MODULES="${CMAKE_BINARY_DIR}/lib/modules-for-tests")
    target_link_libraries(${target} PRIVATE PkgConfig::CMOCKA)
    if(folder STREQUAL "all")
      target_link_libraries(${target} PRIVATE hm_api hm_sim)
    else()
      target_link_libraries(${target} PRIVATE hm_${folder})
    endif()
    # The suite of a contract lies in the contract's folder; its instance for another folder needs that folder too.
    if(suite STREQUAL "conformance" AND TARGET hm_${stem})
      target_link_libraries(${target} PRIVATE hm_${stem})
    endif()
    add_test(NAME ${target} COMMAND ${target})
    set_tests_properties(${target} PROPERTIES LABELS "${suite};${folder}" TIMEOUT 240 SKIP_RETURN_CODE 77
      ENVIRONMENT "OMP_NUM_THREADS=2;OMP_WAIT_POLICY=passive")
  endforeach()
endfunction()

# tests/<suite>/test_*.py run the built program in real processes; Debian's python3 has h5py.  Exit code 77 is SKIP.
function(hm_script_tests)
  find_program(HM_PYTHON NAMES python3 PATHS /usr/bin NO_DEFAULT_PATH)
  if(NOT HM_PYTHON)
    find_program(HM_PYTHON NAMES python3)
  endif()
  file(GLOB scripts CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*/test_*.py)
  foreach(script IN LISTS scripts)
    get_filename_component(stem ${script} NAME_WE)
    get_filename_component(directory ${script} DIRECTORY)
    get_filename_component(suite ${directory} NAME)
    string(REPLACE "test_" "" stem ${stem})
    add_test(NAME ${suite}-${stem} COMMAND ${HM_PYTHON} ${script})
    set_tests_properties(${suite}-${stem} PROPERTIES LABELS "${suite}" TIMEOUT 300 SKIP_RETURN_CODE 77
      ENVIRONMENT "HIVEMIND=${CMAKE_BINARY_DIR}/bin/hivemind;HM_BUILD_DIR=${CMAKE_BINARY_DIR};HM_SANITIZED=${HM_SANITIZE};PYTHONPATH=${CMAKE_SOURCE_DIR}/tests/support;OMP_WAIT_POLICY=passive")
  endforeach()
endfunction()
