/*-------------------------------------------------------------------------
 *
 * library.h
 *	  libnats: open for as long as a thread connects.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_LIBRARY_H
#define NP_LIBRARY_H

#include <stddef.h>

#include "base/types.h"

/* Its threads and ours do little; 8 MB of stack each is a waste of address space. */
#define NP_THREAD_STACK_SIZE	(256 * 1024)

extern bool np_library_prepare(void (*before_exit) (void));
extern bool np_library_enter(char *error, size_t error_size);
extern void np_library_leave(bool left_behind);
extern void np_library_leave_behind(void);
extern bool np_library_has_left_behind(void);
extern void np_library_shut_down_sockets(void);
extern void np_library_end(void);
extern const char *np_library_version(void);

#endif							/* NP_LIBRARY_H */
