// The runtime extension: an IREE executable plugin with the CPU kernels of this architecture, for
// modules whose kernels are imports by name instead of linked objects.
#include "executable_plugin_abi.h"
#include "thread_scratch.h"
#include "tiles_granted.h"

typedef void kernel_function(const void *q, const void *k, const void *v, const void *mask,
                             const void *bias, const float *sinks, void *o, void *weights,
                             float *lse, const uint32_t *words, uint32_t x, uint32_t y, uint32_t z,
                             void *scratch);

// Generated from the kernel table: X(import, kernel, times, own, whether this machine
// runs it), where `own` is the size of the scratch memory that it needs instead of the module's, or 0.
#define X(import, kernel, times, own, runs) extern kernel_function kernel;
#include "kernels.inc"
#undef X

// What an import resolves to: a kernel whose blocks of rows are the import's, or `times` of its
// own make one of the import's.
typedef struct {
  kernel_function *kernel;
  uint32_t times;
  size_t own_scratch;
} binding;

// A kernel's arguments as the compiled module packs them: in order, naturally aligned.
typedef struct {
  const void *q, *k, *v, *mask, *bias;
  const float *sinks;
  void *o, *weights;
  float *lse;
  const uint32_t *words;
  uint32_t x, y, z;
  void *scratch;
} arguments;

static int call(const void *packed, void *context, void *reserved) {
  (void)reserved;
  const arguments *a = packed;
  const binding *bound = context;
  if (!bound->kernel) return 1;  // a module that calls what the machine lacks after all
  void *scratch = bound->own_scratch ? thread_scratch(bound->own_scratch) : a->scratch;
  if (!scratch) return 1;  // no memory: the runtime fails the call
  for (uint32_t i = 0; i < bound->times; ++i)
    bound->kernel(a->q, a->k, a->v, a->mask, a->bias, a->sinks, a->o, a->weights, a->lse, a->words,
                  a->x * bound->times + i, a->y, a->z, scratch);
  return 0;
}

static int same(const char *a, const char *b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

// Ends the name of an import that is called only where the processor has what the kernel needs, so
// that it may be missing here. (Of IREE's own mark, a leading '?', stock code generation has no use.)
#define IF_SUPPORTED "_if_supported"

// What the machine has for an import, or NULL.
static const binding *find(const char *name) {
  static const binding nothing = {NULL, 0, 0};
  const binding *otherwise = NULL;
#define X(import, kernel, times, own, runs)                   \
  if (same(name, #import) || same(name, #import IF_SUPPORTED)) { \
    static const binding bound = {kernel, times, own};        \
    if (runs) return &bound;                                  \
    if (!same(name, #import)) otherwise = &nothing;           \
  }
#include "kernels.inc"
#undef X
  return otherwise;
}

static int load_count;

// How often a runtime has loaded the plugin in this process; iree_flashattn.runtime asks.
__attribute__((visibility("default"))) int iree_flashattn_runtime_loads(void) {
  return __atomic_load_n(&load_count, __ATOMIC_RELAXED);
}

static plugin_status load(const void *environment, size_t param_count, const void *params,
                          void **self) {
  (void)environment, (void)param_count, (void)params;
  if (!open_thread_scratch()) return PLUGIN_RESOURCE_EXHAUSTED;
  __atomic_fetch_add(&load_count, 1, __ATOMIC_RELAXED);
  *self = NULL;
  return PLUGIN_OK;
}

static void unload(void *self) {
  (void)self;
  close_thread_scratch();
}

static plugin_status resolve(void *self, const plugin_resolve_params *params,
                             uint32_t *resolution) {
  (void)self;
  *resolution = 0;
  plugin_status status = PLUGIN_OK;
  for (size_t i = 0; i < params->count; ++i) {
    if (params->function_pointers[i]) continue;
    const char *name = params->symbol_names[i];
    const int optional = *name == '?';
    const binding *bound = find(name + optional);
    if (bound) {
      params->function_pointers[i] = (void *)call;
      params->contexts[i] = (void *)bound;
    } else if (optional) {
      *resolution |= PLUGIN_MISSING_OPTIONAL;
    } else {
      status = PLUGIN_NOT_FOUND;  // the runtime names the import in its message
    }
  }
  return status;
}

static const plugin_header header = {
    .version = PLUGIN_VERSION_0_1,
    .name = "iree_flashattn",
    .description = "FlashAttention kernels for CPUs",
};
static const plugin_v0 plugin = {&header, load, unload, resolve};

__attribute__((visibility("default"))) const plugin_header **iree_hal_executable_plugin_query(
    uint32_t max_version, void *reserved) {
  (void)reserved;
  return max_version >= PLUGIN_VERSION_0_1 ? (const plugin_header **)&plugin : NULL;
}
