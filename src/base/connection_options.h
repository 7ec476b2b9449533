/*-------------------------------------------------------------------------
 *
 * connection_options.h
 *	  Settings that came with the connection, before the library was loaded.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CONNECTION_OPTIONS_H
#define NP_CONNECTION_OPTIONS_H

#include "nodes/pg_list.h"

extern List *np_unchecked_options(void);
extern void np_refuse_options(List *names);
extern List *np_misspelt_settings(void);

#endif							/* NP_CONNECTION_OPTIONS_H */
