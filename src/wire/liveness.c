/*-------------------------------------------------------------------------
 *
 * liveness.c
 *	  Whether the server is still there.
 *
 * A connection is alive only if it has answered lately.  The kernel alone
 * needs 15 minutes to notice a machine that has vanished, and never notices a
 * server that is stopped, or one that a balancer answers for.  So who waits
 * for something has the server asked (PING) when nothing has been answered
 * for half of his time, and the connection is lost when after another quarter
 * still nothing has.  The last quarter is for another server.
 *
 * A server's own PING is no answer: it comes too when what we send goes
 * nowhere.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#ifdef __linux__
#include <linux/sockios.h>
#endif

#include "base/settings.h"
#include "wire/connection_internal.h"

/* Without a word from the server for so long, it is asked before the connection is used again. */
#define TRUSTED_FOR		NP_MILLISECONDS(10000)

/* Up to where in the outgoing stream the other side's TCP has taken it. */
static uint64
delivered(const NpConnection *connection)
{
	int			waiting = 0;

#ifdef SIOCOUTQ
	if (ioctl(np_wire_socket(connection->wire), SIOCOUTQ, &waiting) != 0)
		waiting = 0;
#endif
	return connection->outbound.sent - Min((uint64) waiting, connection->outbound.sent);
}

/* Has it been asked, and said nothing since? */
static bool
is_asked(const NpConnection *connection, NpTime since)
{
	return connection->asked_at > Max(since, connection->answered_at);
}

/*
 * When somebody who has waited since a time, and has so long, is to call
 * np_connection_doubt.
 */
NpTime
np_connection_next_doubt(const NpConnection *connection, NpTime since, NpTime timeout)
{
	if (is_asked(connection, since))
		return connection->asked_at + timeout / 4;
	return Max(since, connection->answered_at) + timeout / 2;
}

static void
ask(NpConnection *connection)
{
	np_connection_append(connection, "PING\r\n");
	connection->pongs_awaited++;
	connection->asked_at = np_now();
	connection->asked_position = connection->outbound.appended;
	connection->delivered = delivered(connection);
	np_connection_send(connection);
}

/*
 * Ask the server whether it is there, or lose the connection, if it is time
 * for that when what has arrived is read.  Never waits; throws as
 * np_connection_receive.
 */
void
np_connection_doubt(NpConnection *connection, NpTime since, NpTime timeout)
{
	uint64		taken;

	np_connection_receive_all(connection);
	if (connection->wire == NULL || np_now() < np_connection_next_doubt(connection, since, timeout))
		return;
	if (!is_asked(connection, since))
	{
		ask(connection);
		return;
	}
	taken = delivered(connection);
	if (taken < connection->asked_position && taken > connection->delivered)
	{
		/* the question is on its way, behind much else on a slow link */
		connection->delivered = taken;
		connection->asked_at = np_now();
		return;
	}
	np_connection_lose(connection, NP_NO_ANSWER);
}

/*
 * Before a connection is used that was idle: what the server has said
 * meanwhile is read, and if that is long ago, it is asked.  The connection can
 * be lost then.  Waits for a part of the time that its user has; interrupts as
 * in np_wait.
 *
 * An answer behind much else on a slow link would not come in that time.  Of
 * what is not delivered the kernel says whether it goes anywhere
 * (np_connection_limit_silence), and np_connection_doubt.
 */
void
np_connection_check(NpConnection *connection, NpTime timeout)
{
	/* not of what is read now, which can have been there for as long */
	NpTime		answered_at = connection->answered_at;
	NpTime		now;

	np_connection_receive_all(connection);
	if (connection->wire == NULL)
		return;
	now = np_now();
	if (now - answered_at > TRUSTED_FOR && delivered(connection) == connection->outbound.appended)
		(void) np_connection_ping(connection, NP_WAIT_CONNECT, now + timeout / 4);
}

/*
 * Have the kernel give the connection up, even while nobody here looks, when
 * what was sent is not taken for longer than anybody waits for an answer.
 */
void
np_connection_limit_silence(NpConnection *connection)
{
#ifdef TCP_USER_TIMEOUT
	unsigned int timeout = Max(np_ack_timeout, np_commit_timeout);

	/* without it, as ever */
	(void) setsockopt(np_wire_socket(connection->wire), IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
#endif
}
