// Scratch memory of a thread, for kernels that want more than a compiled module may ask for. A thread
// keeps it until it ends, or until the last runtime that has loaded the plugin lets go of it.
#ifndef FLASHATTN_THREAD_SCRATCH_H_
#define FLASHATTN_THREAD_SCRATCH_H_

#include <pthread.h>
#include <stdlib.h>

// The head of an allocation, which the memory itself follows.
typedef struct scratch_block {
  _Alignas(64) struct scratch_block *next;
  size_t size;
} scratch_block;

static pthread_mutex_t scratch_lock = PTHREAD_MUTEX_INITIALIZER;  // of what follows
static scratch_block *scratch_blocks;
static pthread_key_t scratch_key;  // of the running thread's block, while there are users
static unsigned scratch_users;

// Frees a block. One that the list does not hold any more was freed with the plugin while its thread
// ended.
static void free_scratch(void *block) {
  pthread_mutex_lock(&scratch_lock);
  scratch_block **at = &scratch_blocks;
  while (*at && *at != block) at = &(*at)->next;
  if (*at) {
    *at = (*at)->next;
    free(block);
  }
  pthread_mutex_unlock(&scratch_lock);
}

// Comes before any thread_scratch; 0: the process has no key left.
static int open_thread_scratch(void) {
  pthread_mutex_lock(&scratch_lock);
  const int open = scratch_users > 0 || pthread_key_create(&scratch_key, free_scratch) == 0;
  if (open) ++scratch_users;
  pthread_mutex_unlock(&scratch_lock);
  return open;
}

// Follows the last call of its user's. Threads may outlive the plugin: nothing of it is left to them.
static void close_thread_scratch(void) {
  pthread_mutex_lock(&scratch_lock);
  if (--scratch_users == 0) {
    pthread_key_delete(scratch_key);
    while (scratch_blocks) {
      scratch_block *next = scratch_blocks->next;
      free(scratch_blocks);
      scratch_blocks = next;
    }
  }
  pthread_mutex_unlock(&scratch_lock);
}

// At least `size` bytes of the running thread, 64-byte aligned, or NULL. They hold anything.
static void *thread_scratch(size_t size) {
  scratch_block *block = pthread_getspecific(scratch_key);
  if (block && block->size >= size) return block + 1;
  if (block) {
    pthread_setspecific(scratch_key, NULL);
    free_scratch(block);
  }
  block = NULL;
  if (posix_memalign((void **)&block, 64, sizeof *block + size)) return NULL;
  if (pthread_setspecific(scratch_key, block)) {
    free(block);
    return NULL;
  }
  pthread_mutex_lock(&scratch_lock);
  block->next = scratch_blocks;
  block->size = size;
  scratch_blocks = block;
  pthread_mutex_unlock(&scratch_lock);
  return block + 1;
}

#endif  // FLASHATTN_THREAD_SCRATCH_H_
