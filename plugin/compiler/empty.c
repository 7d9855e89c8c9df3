// Stands in for libIREECompiler.so when the plugin is linked; see CMakeLists.txt.
typedef int not_empty;
