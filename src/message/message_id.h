/*-------------------------------------------------------------------------
 *
 * message_id.h
 *	  The automatic ids of messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_MESSAGE_ID_H
#define NP_MESSAGE_ID_H

#include "base/types.h"

#define NP_MESSAGE_ID_LENGTH	22

extern NpSpan np_message_next_id(void);

#endif							/* NP_MESSAGE_ID_H */
