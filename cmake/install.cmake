# `cmake --install`: the program, the headers, both libraries, a CMake package with dalsegno::dalsegno (C++) and
# dalsegno::c, and the same for pkg-config.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS dalsegno RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
install(TARGETS dalsegno_c dalsegno_cpp EXPORT dalsegno LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES include/dalsegno.h DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(DIRECTORY include/dalsegno DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.hpp")

set(package "${CMAKE_INSTALL_LIBDIR}/cmake/dalsegno")
install(EXPORT dalsegno NAMESPACE dalsegno:: FILE dalsegnoTargets.cmake DESTINATION "${package}")
configure_package_config_file(cmake/dalsegnoConfig.cmake.in dalsegnoConfig.cmake INSTALL_DESTINATION "${package}")
write_basic_package_version_file(dalsegnoConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/dalsegnoConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/dalsegnoConfigVersion.cmake"
        DESTINATION "${package}")

# dalsegno.pc for C, dalsegno_cpp.pc for C++. Their prefix is found from where they lie.
file(RELATIVE_PATH to_headers "/${CMAKE_INSTALL_LIBDIR}" "/${CMAKE_INSTALL_INCLUDEDIR}")
foreach(library IN ITEMS dalsegno dalsegno_cpp)
  configure_file(cmake/dalsegno.pc.in "${library}.pc" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${library}.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endforeach()
