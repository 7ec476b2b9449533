/*-------------------------------------------------------------------------
 *
 * relay_launcher.h
 *	  The background worker that starts and stops the relays.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_RELAY_LAUNCHER_H
#define NP_RELAY_LAUNCHER_H

extern void np_launcher_register(void);

#endif							/* NP_RELAY_LAUNCHER_H */
