/*-------------------------------------------------------------------------
 *
 * shared_memory.h
 *	  The shared memory of all backends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SHARED_MEMORY_H
#define NP_SHARED_MEMORY_H

/* The tranche of the one lightweight lock; only when preloaded. */
#define NP_LOCK_TRANCHE		"nats_publish"

/* A part of it; MaxBackends is known when its size is asked for. */
typedef struct NpSharedArea
{
	const char *name;
	Size		(*size) (void);
	void		(*initialize) (void *memory);
	void	  **memory;			/* where to record its place; NULL there: not attached */
} NpSharedArea;

extern void np_shared_memory_reserve(const NpSharedArea *const *all_areas);
extern bool np_shared_area_attach(const NpSharedArea *area);

#endif							/* NP_SHARED_MEMORY_H */
