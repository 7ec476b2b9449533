/*-------------------------------------------------------------------------
 *
 * relay_state.h
 *	  What all backends know of the relays, in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_RELAY_STATE_H
#define NP_RELAY_STATE_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

#include "stats/shared_memory.h"

/* Databases that can have a relay. */
#define NP_MAX_RELAYS		64

/* Each has a slot for the relay of its table and, so much behind it, one for that of its WAL. */
#define NP_MAX_SLOTS		(2 * NP_MAX_RELAYS)
#define np_relay_wal_slot(slot)		((slot) + NP_MAX_RELAYS)
#define np_relay_is_of_wal(slot)	((slot) >= NP_MAX_RELAYS)

/* So many transactions are known that have ended the relay of the WAL. */
#define NP_MAX_ENDLESS		16

typedef enum NpRelayState
{
	NP_RELAY_STARTING,
	NP_RELAY_IDLE,
	NP_RELAY_PUBLISHING,
	NP_RELAY_WAITING,			/* for NATS, which it can't reach */
	NP_RELAY_FAILING,			/* for an error of the tables of the outbox, or of what is executed there */
	NP_RELAY_PAUSED,
	NP_RELAY_OFF,				/* nats_publish.publishing is not on */
	NP_RELAY_NO_EXTENSION,
	NP_RELAY_NO_TABLE,			/* nats_outbox has another name or schema than the extension's */
	NP_RELAY_NO_DATABASE,
	NP_RELAY_CLOSED,			/* the database does not accept connections */
	NP_RELAY_NO_RIGHTS,			/* on the tables of the outbox, or on what their triggers use */
	NP_RELAY_BLOCKED,			/* by a lock, or was lately; by whose, see np_relay_blocked_by() */
	NP_RELAY_DIVERTING,			/* the WAL to nats_outbox, for it can't be published */
	NP_RELAY_STANDBYS,			/* which it has waited for, for long */
	NP_RELAY_NO_SLOT,			/* that of the WAL was dropped, or has lost WAL */
	NP_RELAY_STOPPED			/* and to be started again */
} NpRelayState;

/* How what is published keeps its order. */
typedef enum NpRelayOrder
{
	NP_ORDER_RELAXED,			/* it does not wait for that */
	NP_ORDER_BY_SUBJECT,		/* one message of a subject is on its way */
	NP_ORDER_PIPELINED,			/* each message of a stream is stored right behind the one before it */
	NP_ORDER_MIXED				/* some streams this way, some that */
} NpRelayOrder;

/* Whom a transaction has something for. */
typedef enum NpRelayWake
{
	NP_WAKE_NOT,
	NP_WAKE_TO_PUBLISH,			/* a relay that may publish */
	NP_WAKE_TO_LOOK				/* any: it may have been told to go on */
} NpRelayWake;

/* What the relay of the WAL is told by who switches it off. */
typedef enum NpWalOrder
{
	NP_WAL_GO_ON,
	NP_WAL_FINISH,				/* with all that is committed, and divert what can't be published at once */
	NP_WAL_LEAVE				/* the slot is about to be dropped */
} NpWalOrder;

/* Where the relay of the WAL is. */
typedef struct NpWalProgress
{
	XLogRecPtr	read;			/* decoded up to here */
	XLogRecPtr	confirmed;		/* all before is stored, or in nats_outbox */
	int64		queued;			/* messages that were decoded, and have not come to their end */
	int64		queued_bytes;
	int64		diverted;		/* messages that were moved to nats_outbox or nats_outbox_dead */
	int64		forged;			/* messages with our prefix that are not ours, and were left out */
	uint32		decoding;		/* the transaction that is being decoded; 0: none */
	int64		decoded;		/* its messages so far */
} NpWalProgress;

/* One database's relay.  Counters begin with its worker. */
typedef struct NpRelayStatus
{
	char		name[NAMEDATALEN];	/* of the database; empty: not used */
	Oid			database;		/* once a worker has connected to it */
	int			pid;			/* 0: no worker */
	NpRelayState state;
	char		url[256];		/* empty: not connected */
	NpRelayOrder order;
	char		shared_stream[256]; /* that somebody else writes to, UTF-8; empty: none is known */
	int64		published;
	int64		failed;			/* attempts */
	int64		dead;
	TimestampTz last_success;	/* 0: none yet */
	TimestampTz last_error_at;	/* 0: none yet */
	char		last_error[512];	/* UTF-8 */
	NpWalProgress wal;			/* of a slot of the WAL */
} NpRelayStatus;

extern const NpSharedArea np_relay_area;

extern bool np_relay_state_is_there(void);
extern const char *np_relay_state_name(NpRelayState state);
extern const char *np_relay_order_name(NpRelayOrder order);
extern NpRelayStatus np_relay_status(int slot);
extern struct ArrayType *np_relay_blocked_by(NpRelayStatus *status);
extern void np_relay_wake(Oid database, NpRelayWake whom);
extern void np_relay_wake_for_wal(Oid database);
extern int	np_relay_find(Oid database);
extern void np_relay_order(int slot, NpWalOrder order);
extern NpWalOrder np_relay_ordered(int slot);
extern void np_launcher_wake(void);
extern void np_launcher_set(void);

extern int	np_relay_slot_for(const char *name);
extern void np_relay_slot_free(int slot);
extern bool np_relay_slot_name(int slot, const char *name);
extern void np_relay_slot_set(int slot, NpRelayState state);
extern bool np_relay_slot_claim(int slot, const char *name, Oid database);
extern void np_relay_slot_leave(int slot);
extern uint32 np_relay_slot_wakes(int slot);
extern uint32 np_relay_slot_listen(int slot);
extern void np_relay_slot_ignore_messages(int slot);
extern bool np_relay_slot_is_told(int slot);
extern bool np_relay_slot_was_woken(int slot, uint32 wakes);
extern void np_relay_slot_set_url(int slot, const char *url);
extern void np_relay_slot_set_order(int slot, NpRelayOrder order, const char *shared_stream);
extern void np_relay_slot_count(int slot, int64 published, int64 failed, int64 dead);
extern void np_relay_slot_set_error(int slot, const char *error);
extern void np_relay_slot_set_progress(int slot, const NpWalProgress *progress);
extern void np_relay_slot_add_endless(int slot, XLogRecPtr commit);
extern bool np_relay_slot_is_endless(int slot, XLogRecPtr commit);
extern int	np_relay_slot_count_endless(int slot, XLogRecPtr position);

extern void np_relay_set_confirmed(Oid database, XLogRecPtr position);
extern XLogRecPtr np_relay_confirmed(Oid database);

#endif							/* NP_RELAY_STATE_H */
