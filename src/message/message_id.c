/*-------------------------------------------------------------------------
 *
 * message_id.c
 *	  The automatic ids of messages.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "message/message_id.h"

/* They are like NATS's own NUIDs. */
#define PREFIX_LENGTH	12

static const char base62[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/*
 * The next automatic id: 12 random characters for the backend and a counter
 * of 10, counted up in place.  Unique over databases, restarts and restores.
 * Valid until the next call.
 */
NpSpan
np_message_next_id(void)
{
	static char id[NP_MESSAGE_ID_LENGTH + 1];
	int			place = NP_MESSAGE_ID_LENGTH - 1;

	if (id[0] == '\0')
	{
		uint8		random[PREFIX_LENGTH];

		if (!pg_strong_random(random, sizeof(random)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		memset(id, '0', NP_MESSAGE_ID_LENGTH);
		for (int i = 0; i < PREFIX_LENGTH; i++)
			id[i] = base62[random[i] % 62];
	}
	while (place >= PREFIX_LENGTH && id[place] == 'z')
		id[place--] = '0';
	id[place] = id[place] == '9' ? 'A' : id[place] == 'Z' ? 'a' : id[place] + 1;
	return (NpSpan) {id, NP_MESSAGE_ID_LENGTH};
}
