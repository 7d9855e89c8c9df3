// IREE's C interface for executable plugins, version 0.1, as far as this plugin uses it: the wheels
// do not carry the header (runtime/src/iree/hal/local/executable_plugin.h in IREE's sources). It has
// been stable since 2023; a runtime that stopped supporting it would pass a lower maximum version.
#ifndef FLASHATTN_EXECUTABLE_PLUGIN_ABI_H_
#define FLASHATTN_EXECUTABLE_PLUGIN_ABI_H_

#include <stddef.h>
#include <stdint.h>

#define PLUGIN_VERSION_0_1 1u

// A status is a pointer whose low five bits are the code when nothing is attached.
typedef struct plugin_status_object *plugin_status;
#define PLUGIN_OK ((plugin_status)0)
#define PLUGIN_NOT_FOUND ((plugin_status)(uintptr_t)5)
#define PLUGIN_RESOURCE_EXHAUSTED ((plugin_status)(uintptr_t)8)

typedef struct {
  uint32_t version;
  const char *name, *description;
  uint32_t features;   // 0: loaded by the system's dynamic linker, statuses are bare codes
  int32_t sanitizer;   // 0: none
  uint64_t reserved[8];
} plugin_header;

typedef struct {
  size_t count;
  const char *const *symbol_names;  // a leading '?' marks an optional import
  void **function_pointers;         // filled in; those that are set already are left alone
  void **contexts;                  // handed to the function
} plugin_resolve_params;

#define PLUGIN_MISSING_OPTIONAL 1u

typedef struct {
  const plugin_header *header;
  plugin_status (*load)(const void *environment, size_t param_count, const void *params,
                        void **self);
  void (*unload)(void *self);
  plugin_status (*resolve)(void *self, const plugin_resolve_params *params, uint32_t *resolution);
} plugin_v0;

// What every resolved function looks like: arguments in a struct, 0 for success.
typedef int (*plugin_import)(const void *arguments, void *context, void *reserved);

#endif  // FLASHATTN_EXECUTABLE_PLUGIN_ABI_H_
