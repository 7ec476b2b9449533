/*-------------------------------------------------------------------------
 *
 * relay_process.h
 *	  What the launcher and its workers have in common as processes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_RELAY_PROCESS_H
#define NP_RELAY_PROCESS_H

extern void np_relay_process_start(const char *database);

#endif							/* NP_RELAY_PROCESS_H */
