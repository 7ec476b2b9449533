/*-------------------------------------------------------------------------
 *
 * flight.h
 *	  Rows of the outbox on their way to JetStream.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_FLIGHT_H
#define NP_FLIGHT_H

#include "publish/delivery.h"
#include "relay/relay_row.h"

/* Whose rows they are. */
typedef struct NpFlightOwner
{
	void		(*ended) (NpRow *row);	/* it has come to its end, and is the owner's from then on */
	bool		(*admits) (NpRow *row); /* may it go, now that it is its turn?  Else it has ended, as it is
										 * then */
	bool		is_followed;	/* a row that has failed leaves its lane, for those behind it are not
								 * admitted; and none is passed by, for none is read again */
} NpFlightOwner;

extern void np_flight_of(const NpFlightOwner *the_owner);
extern void np_flight_begin(NpSession *session);
extern void np_flight_ask(void);
extern void np_flight_note_doubts(void);
extern bool np_flight_knows_streams(const NpSession *wanted);
extern bool np_flight_waits_for_first(const NpSession *wanted);
extern int	np_flight_count(void);
extern NpTime np_flight_patience_ends(void);
extern bool np_flight_connect(NpSession *session, const char **problem);
extern bool np_flight_send(const char **problem);
extern bool np_flight_has_room(void);
extern bool np_flight_give_up_unanswered(const char **problem);
extern bool np_flight_has_culprit(void);
extern void np_flight_convict(void);
extern int64 np_flight_clear(void);
extern int64 np_flight_abort(void);

#endif							/* NP_FLIGHT_H */
